"""Two daemons of one bridge on hosts of their own, and real servers between them."""
