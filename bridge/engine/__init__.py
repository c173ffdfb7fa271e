"""Composition: the sources, the store and the destinations that one configuration names."""
