"""CLIPPO (CLIP from pixels only): training, evaluation and the `clippo` program."""

__all__ = ["__version__"]

__version__ = "0.1.0"
