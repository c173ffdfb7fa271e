"""The configuration file: read, checked against its types, and judged with all its faults at once."""
