"""A measure a file: a function that takes a client and answers one round's samples."""
