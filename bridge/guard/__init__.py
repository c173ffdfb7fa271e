"""What may go: limits, windows, holds and pace."""
