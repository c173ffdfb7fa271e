"""The daemon: feeds, store, routes, plans, the guard and the reconcilers; it knows no registry."""

__version__ = "0.1.0"
