"""The CLIPPO model: one ViT that reads photographs and rendered text (arXiv 2212.08045)."""

from model.big_vision import load_big_vision
from model.clippo import Clippo, create_model
from model.tower import TowerConfig, list_models

__all__ = ["Clippo", "TowerConfig", "create_model", "list_models", "load_big_vision"]
