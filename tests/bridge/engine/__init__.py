"""What runs, and in which turn."""
