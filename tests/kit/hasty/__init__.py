"""The program with waits of its own cut short, for tests that would sit them out; all else is as users run it."""
