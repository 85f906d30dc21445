"""What a model's files say, and how much memory it takes. Hostile input is expected."""
