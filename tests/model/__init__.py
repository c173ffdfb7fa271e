"""Protocols as models that are searched whole, written before the code that follows them."""
