"""The reports: what people and runbooks are shown."""
