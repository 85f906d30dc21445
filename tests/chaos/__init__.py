"""A whole daemon, many clients, and one fault after the other, by chance: ``make chaos``."""
