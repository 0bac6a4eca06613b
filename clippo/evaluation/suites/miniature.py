"""What the paper measures, on data that `clippo data fetch` makes, within ten minutes of two cores."""

from __future__ import annotations

from pathlib import Path

from clippo.data.dictionary import DictionaryConfig
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.retrieval import RetrievalConfig

__all__ = ["suite"]


def suite(root: Path) -> dict[str, EvaluatorConfig]:
    """What the paper measures, on data that `clippo data fetch` makes."""
    return {"stamps": RetrievalConfig(data=DictionaryConfig(collections=("stamps",)))}
