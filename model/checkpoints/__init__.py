"""Formats that models are read from and written to, one module each."""
