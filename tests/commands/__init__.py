"""Every command as a user runs it: a process, its exit code, and what it prints."""
