"""A run small enough for a test, on the real data, and a folder in the layout of VQA v2."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clippo.data.emoji import EmojiConfig, EmojiSource
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig
from clippo.recipes import find_recipe
from clippo.training import trainer
from clippo.training.config import TrainConfig
from clippo.training.trainer import train


@pytest.fixture(scope="session")
def emoji() -> EmojiSource:
    return EmojiConfig(languages=("en", "de", "zh")).build("all", image_size=64)


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """20 steps of a tower that learns something in them."""
    return dataclasses.replace(
        find_recipe("emoji")(),
        model=ClippoConfig(
            width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=48, embed_dim=32
        ),
        data=EmojiConfig(languages=("en", "de")),
        evaluators={"held_out": RetrievalConfig(queries="held_out", candidates="held_out")},
        batch_size=16,
        steps=20,
        learning_rate=3e-3,
        warmup_steps=2,
        residual_scale=1.0,
        workers=0,
        eval_every=10,
        checkpoint_every=10,
        keep_checkpoints=1,
        log_every=5,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config) -> Path:
    """The folder of a whole run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_config, folder)
    return folder


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw no learning curves, which takes half a second a run; `finished` has drawn its own."""
    monkeypatch.setattr(trainer, "draw", lambda runs, file: None)


def write_part(root: Path, part: str, question_ids: list[int]) -> None:
    """Write a part of VQA v2. The number of a photograph is that of its questions without three digits."""
    (root / part).mkdir(parents=True)
    about = {"info": {"version": "2.0"}, "license": {}, "data_type": "mscoco", "data_subtype": part}
    questions, annotations = [], []
    for question_id in question_ids:
        image_id = question_id // 1000
        questions.append(
            {"image_id": image_id, "question": f"What is {question_id}?", "question_id": question_id}
        )
        answers = [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(["net"] * 6 + ["netting", "net", "mesh", "a net"], start=1)
        ]
        annotations.append(
            {
                "question_type": "what is", "multiple_choice_answer": "net", "answers": answers,
                "image_id": image_id, "answer_type": ("other", "yes/no")[question_id % 2],
                "question_id": question_id,
            }
        )  # fmt: skip
        grey = np.full((30, 40), image_id % 256, np.uint8)
        Image.fromarray(grey).save(root / part / f"COCO_{part}_{image_id:012}.jpg")
    listed = {"task_type": "Open-Ended", "questions": questions[::-1]}  # the files need not have one order
    (root / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps(about | listed))
    content = about | {"annotations": annotations}
    (root / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps(content))


@pytest.fixture
def vqa2_root(tmp_path) -> Path:
    """A folder in the layout of VQA v2: three questions about two photographs, and one to be measured."""
    write_part(tmp_path / "vqa", "train2014", [9000, 9001, 131074000])
    write_part(tmp_path / "vqa", "val2014", [42000])
    return tmp_path / "vqa"
