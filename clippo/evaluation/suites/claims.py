"""The measures of docs/claims.md on data that `clippo data fetch texts` and `dictionary` make, in minutes."""

from __future__ import annotations

from pathlib import Path

from clippo.data.emoji import EmojiConfig
from clippo.data.packages import PackagesConfig
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.modality_gap import ModalityGapConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.evaluation.robustness import RobustnessConfig
from clippo.evaluation.sts import SimilarityConfig
from clippo.evaluation.text_classification import TextClassificationConfig
from clippo.evaluation.vqa import VqaConfig

__all__ = ["suite"]

TEXT_TASKS = ("sentiment", "domain", "section", "noun_class", "is_a", "words_in_context")


def suite(root: Path) -> dict[str, EvaluatorConfig]:
    """The measures of docs/claims.md on the sets texts and dictionary of `clippo data fetch`."""
    emoji = EmojiConfig(languages=("en",))
    return {
        "images": RetrievalConfig(data=EmojiConfig(), captions="first"),
        "sentences": RetrievalConfig(data=PackagesConfig(languages=("en",))),
        **{f"text_{task}": TextClassificationConfig(task=task) for task in TEXT_TASKS},
        "similarity": SimilarityConfig(),
        "vqa": VqaConfig(),
        "robustness": RobustnessConfig(data=EmojiConfig()),
        "modality_gap": ModalityGapConfig(data=emoji),
    }
