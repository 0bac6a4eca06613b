"""The examples of docs/extending.md: four new files, in a copy of the packages, and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"


@pytest.mark.long
def test_the_examples_train_from_the_command_line(tmp_path):
    for package in ("clippo", "clippo_kernels"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for path, code in blocks:
        assert 15 <= len(code.splitlines()) <= 45
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(code)

    source, place = EmojiConfig(languages=("en",)).build("all", image_size=64), PlaceConfig().build(64)
    (tmp_path / "photos").mkdir()
    album = {"photos": []}
    for index in range(100):
        example = source[30 * index]
        Image.fromarray(np.ascontiguousarray(place(example.image))).save(tmp_path / f"photos/{index:03}.png")
        album["photos"].append({"file": f"{index:03}.png", "title": {"en": example.texts[0].text}})
    (tmp_path / "album.json").write_text(json.dumps(album))

    def clippo(*arguments):
        run = subprocess.run(
            [sys.executable, "-m", "clippo", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout

    described = clippo("train", "--help")
    assert "album, coco, dictionary, emoji, folder" in described
    assert "sigmoid, smoothed, softmax" in described
    assert "pictures" in described
    small = "--model.width 32 --model.depth 1 --model.num-heads 2".split()
    out = clippo(
        "train",
        "pictures",
        "--data",
        "album:album.json?images=photos&held_out=0.2",
        *small,
        "--loss.smoothing",
        "0.2",
    )
    assert "en/text_to_image" in out
    results = json.loads((tmp_path / "runs/pictures/results.json").read_text())["rows"]
    [recall, chance] = [row for row in results if row["evaluator"] == "typing_errors"]
    assert chance["value"] <= recall["low"] <= recall["value"] <= recall["high"] <= 100
    config = json.loads((tmp_path / "runs/pictures/config.json").read_text())
    assert config["data"]["type"] == "album"
    assert config["data"]["images"] == "photos"
    assert config["loss"] == {"type": "smoothed", "smoothing": 0.2}
    assert "typing_errors" in clippo("evaluate", "runs/pictures", "--out", "again")
