"""What people and other programs get to see: status, plans, services, explanations."""
