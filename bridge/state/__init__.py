"""What outlives a process: last known good, the journal, and what operators decided."""
