"""Suites: evaluators for any model, by name.

A file NAME.py has a function `suite(root: Path) -> dict[str, EvaluatorConfig]`. `clippo evaluate --suite
NAME` finds it by its name, and runs those evaluators whose data are there.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from clippo.errors import UserError
from clippo.evaluation.base import EvaluatorConfig

__all__ = ["find_suite", "suite_names"]


def suite_names() -> list[str]:
    """The names of all suites."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_suite(name: str, root: Path) -> dict[str, EvaluatorConfig]:
    """The evaluators of a suite, by name.

    Args:
        name: of the suite.
        root: folder of the data sets of the user.

    Raises:
        UserError: there is no such suite.
    """
    if name not in suite_names():
        raise UserError(f"suite must be one of {', '.join(suite_names())}; got {name!r}")
    found: dict[str, EvaluatorConfig] = importlib.import_module(f"{__name__}.{name}").suite(root)
    return found
