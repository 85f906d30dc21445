"""What the machine says: pools of memory, budgets of them, and what processes take."""
