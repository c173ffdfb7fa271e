"""The tests: each one is named as a promise that Isthmus keeps."""
