"""What should be, and what would be done about it: pure."""
