"""Asking a running daemon: the protocol of its socket, both ends."""
