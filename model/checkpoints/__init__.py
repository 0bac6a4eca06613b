"""Formats that models are read from and written to, and what other programs expect of one; a module each."""
