"""Data sets made of what package registries hold: downloaded, verified, and written as files to read."""
