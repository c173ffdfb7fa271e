"""The pages of docs/: true to the code, with examples that work and links that lead somewhere."""
