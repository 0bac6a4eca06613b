"""CLIPPO (CLIP from pixels only): training, evaluation and the `clippo` program."""

__version__ = "0.1.0"
