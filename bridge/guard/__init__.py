"""The deletion guard: which removals may be made now, by limits, windows, holds and pace."""
