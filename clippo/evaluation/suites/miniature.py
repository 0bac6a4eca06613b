"""The measures of the paper on data that `clippo data fetch` makes, within ten minutes of two cores."""

from __future__ import annotations

from pathlib import Path

from clippo.data.dictionary import DictionaryConfig
from clippo.data.packages import PackagesConfig
from clippo.data.remote import cache_folder
from clippo.data.webdataset import TarsConfig
from clippo.evaluation.attention_maps import AttentionMapsConfig
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.bitext import BitextConfig
from clippo.evaluation.few_shot import FewShotConfig
from clippo.evaluation.linear_probe import LinearProbeConfig
from clippo.evaluation.modality_gap import ModalityGapConfig
from clippo.evaluation.nearest_neighbours import NearestNeighboursConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.evaluation.sts import SimilarityConfig
from clippo.evaluation.text_classification import TextClassificationConfig
from clippo.evaluation.token_efficiency import TokenEfficiencyConfig
from clippo.evaluation.vqa import VqaConfig
from clippo.evaluation.zero_shot import ZeroShotConfig

__all__ = ["suite"]

TEXT_TASKS = (
    "sentiment", "rating", "domain", "noun_class", "section", "language", "is_a", "words_in_context",
)  # fmt: skip


def suite(root: Path) -> dict[str, EvaluatorConfig]:
    """The measures of the paper on the sets dictionary, texts and digits of `clippo data fetch`."""
    flags, emoji, stamps = (DictionaryConfig(collections=(name,)) for name in ("flags", "noto", "stamps"))
    digits = TarsConfig(path=str(cache_folder("digits") / "digits.tar"), held_out=0.5)
    english = DictionaryConfig(languages=("en",))
    return {
        # Images by their classes
        "zero_shot_flags": ZeroShotConfig(data=flags, split="all", by_language=True),
        "zero_shot_emoji": ZeroShotConfig(data=emoji, split="all", names="label"),
        "zero_shot_stamps": ZeroShotConfig(data=stamps, split="all", names="label"),
        "zero_shot_digits": ZeroShotConfig(data=digits, names="label"),
        "few_shot_emoji": FewShotConfig(data=emoji),
        "few_shot_digits": FewShotConfig(data=digits),
        "linear_probe_emoji": LinearProbeConfig(data=emoji),
        "linear_probe_digits": LinearProbeConfig(data=digits),
        "neighbours_digits": NearestNeighboursConfig(data=digits),
        # Images by their texts, and texts by texts
        "retrieval_emoji": RetrievalConfig(data=emoji, captions="first", merge_equal_texts=True),
        "retrieval_stamps": RetrievalConfig(data=stamps, captions="first", merge_equal_texts=True),
        "retrieval_sentences": RetrievalConfig(data=PackagesConfig()),
        "bitext_rights": BitextConfig(),
        "bitext_packages": BitextConfig(data="packages"),
        # Language
        **{f"text_{task}": TextClassificationConfig(task=task) for task in TEXT_TASKS},
        "similarity": SimilarityConfig(),
        # Questions
        "vqa": VqaConfig(),
        # Inside
        "modality_gap": ModalityGapConfig(data=english),
        "token_efficiency": TokenEfficiencyConfig(),
        "attention_maps": AttentionMapsConfig(
            data=DictionaryConfig(collections=("noto",), languages=("en",))
        ),
    }
