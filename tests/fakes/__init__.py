"""Programs that stand in for inference servers and fail on demand.."""
