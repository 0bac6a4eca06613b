"""The measures of the paper on its data sets, in a folder on the user's disk."""

from __future__ import annotations

from pathlib import Path

from clippo.data.coco import CocoConfig
from clippo.data.vqa2 import Vqa2Config
from clippo.data.webdataset import TarsConfig
from clippo.data.xm3600 import Xm3600Config
from clippo.evaluation.attention_maps import AttentionMapsConfig
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.few_shot import FewShotConfig
from clippo.evaluation.glue import GlueConfig
from clippo.evaluation.modality_gap import ModalityGapConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.evaluation.sts import SimilarityConfig
from clippo.evaluation.text_classification import TextClassificationConfig
from clippo.evaluation.token_efficiency import TokenEfficiencyConfig
from clippo.evaluation.vqa import VqaConfig
from clippo.evaluation.zero_shot import ZeroShotConfig

__all__ = ["suite"]

# Names of the data sets on the Hugging Face Hub, clip-benchmark/NAME.
ZERO_SHOT = {"imagenet": "wds_imagenet1k", "cifar100": "wds_vtab-cifar100", "pets": "wds_vtab-pets"}
FEW_SHOT = {
    "imagenet": "wds_imagenet1k", "caltech101": "wds_vtab-caltech101", "cars": "wds_cars",
    "cifar100": "wds_vtab-cifar100", "dtd": "wds_vtab-dtd", "pets": "wds_vtab-pets",
}  # fmt: skip
PROMPTS_FILE = "zeroshot_classification_templates.txt"


def suite(root: Path) -> dict[str, EvaluatorConfig]:
    """The measures of the paper on data sets in a folder, whose layout docs/evaluation.md describes."""

    def tars(name: str, part: str) -> TarsConfig:
        return TarsConfig(path=str(root / name / part), held_out=0.0)

    def everything(data: CocoConfig | Xm3600Config) -> RetrievalConfig:
        return RetrievalConfig(data=data, queries="all", candidates="all")

    coco, flickr = (
        CocoConfig(
            path=str(root / name / f"dataset_{name}.json"), images=str(root / name / images),
            parts=("test",), held_out=0.0,
        )
        for name, images in (("coco", ""), ("flickr30k", "flickr30k-images"))
    )  # fmt: skip
    xm3600 = Xm3600Config(path=str(root / "xm3600" / "captions.jsonl"), held_out=0.0)
    glue = str(root / "glue")
    return {
        **{
            f"zero_shot_{name}": ZeroShotConfig(
                data=tars(folder, "test"), split="all",
                prompts=("class_name_only", str(root / folder / PROMPTS_FILE)),
            )
            for name, folder in ZERO_SHOT.items()
        },
        **{
            f"few_shot_{name}": FewShotConfig(data=tars(folder, "train"), test_data=tars(folder, "test"))
            for name, folder in FEW_SHOT.items()
        },
        "coco": everything(coco),
        "flickr30k": everything(flickr),
        "xm3600": everything(xm3600),
        "zero_shot_sst2": TextClassificationConfig(task="glue/sst2", path=glue),
        "glue": GlueConfig(path=glue),
        "stsb": SimilarityConfig(task="glue/stsb", path=glue),
        "vqa2": VqaConfig(questions=Vqa2Config(root=str(root / "vqa2"))),
        "modality_gap": ModalityGapConfig(data=coco, split="all"),
        "token_efficiency": TokenEfficiencyConfig(),
        "attention_maps": AttentionMapsConfig(data=coco, split="all"),
    }  # fmt: skip
