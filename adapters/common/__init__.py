"""What the adapters of different registries share; none of it talks to a registry by itself."""
