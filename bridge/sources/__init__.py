"""What the world says: watches, views and the store that joins them."""
