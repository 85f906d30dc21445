"""Decisions: values in, values out. No clock, no I/O, no log, no asyncio, no randomness."""
