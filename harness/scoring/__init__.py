"""Documents in, scored rows out."""
