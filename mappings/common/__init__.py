"""What several layouts share: keys, addresses, weights, JSON values, and the record of Curator."""
