"""Every layout joined with every other one, on real servers, both directions at once."""
