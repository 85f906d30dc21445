"""Configurations of other programs, read into our own words. Pure: text in, entries out."""
