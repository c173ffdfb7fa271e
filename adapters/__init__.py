"""Everything that talks to the outside; one module or package is one system, and none knows another."""
