"""The command `isthmus`: what people and runbooks type."""
