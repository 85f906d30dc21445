"""Being a service: one daemon per directory, and what the service manager is told."""
