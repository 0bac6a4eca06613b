"""Training: the loop, its configuration, and its exchangeable parts."""
