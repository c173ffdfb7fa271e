"""One process: its start, signals, health pages, metrics, logs and supervisor."""
