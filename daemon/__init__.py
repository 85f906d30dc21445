"""modelport's daemon: owns one port and, behind it, every inference server of the machine."""
