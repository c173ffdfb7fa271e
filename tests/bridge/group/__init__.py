"""What a member of a group decides, without I/O."""
