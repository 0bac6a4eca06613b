"""Recipes: complete configurations of runs, one a file.

A file NAME.py has a function `recipe() -> TrainConfig`. Its docstring says what the run is, the command, the
hardware and the result. `clippo train NAME` finds it by its name. A recipe for any data takes the
configuration of its source, `recipe(data, ...)`, which is then the argument --data.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from clippo.errors import UserError
from clippo.training.config import TrainConfig

__all__ = ["find_recipe", "recipe_names"]


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_recipe(name: str) -> Callable[..., TrainConfig]:
    """The function that makes the configuration of a recipe, which may have arguments.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in recipe_names():
        raise UserError(f"recipe must be one of {', '.join(recipe_names())}; got {name!r}")
    recipe: Callable[..., TrainConfig] = importlib.import_module(f"{__name__}.{name}").recipe
    return recipe
