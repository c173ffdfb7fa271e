"""Stock clients that know nothing of bridges, and find through one what others registered elsewhere."""
