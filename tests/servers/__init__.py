"""Real servers for the tests: built once, started on loopback in temporary folders, damaged and always ended."""
