"""One destination: what it holds, what may be done there now, and the writing of it."""
