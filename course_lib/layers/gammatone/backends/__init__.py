"""Ways to compute a gammatone image, all held to one oracle."""
