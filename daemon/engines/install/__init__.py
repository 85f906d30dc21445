"""Engines of our own: what is installed below the state directory, in which version, and which one
is in use. ``shelf`` is what the daemon needs; the rest is for ``ctl engine`` alone."""
