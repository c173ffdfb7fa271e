"""How a service moves from one side to the other: shares, phases, gates; pure, without any I/O."""
