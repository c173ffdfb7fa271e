"""Pure functions per registration convention: decode and encode, and a statement of what each can carry."""
