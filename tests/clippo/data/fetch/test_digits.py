"""The digits, of a small package of the true layout."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from clippo.data.decode import pixels_of
from clippo.data.fetch import digits
from clippo.data.fetch.digits import fetch_digits
from clippo.data.spec import source_config
from clippo.errors import UserError
from clippo.files import check_manifest


@pytest.fixture
def package(whl, monkeypatch):
    unpinned = {name: replace(package, sha256="") for name, package in digits.PACKAGES.items()}
    monkeypatch.setattr(digits, "PACKAGES", unpinned)
    name = "scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    return lambda files: whl(name, files)


def test_the_digits_are_dark_on_white_and_have_their_labels(package, tmp_path):
    ink = np.zeros((3, 64), int)
    ink[0, 9], ink[1, 63] = 16, 8
    lines = "\n".join(",".join(map(str, [*row, label])) for row, label in zip(ink, (7, 0, 7), strict=True))
    package({digits.FILE: gzip.compress(lines.encode()), "sklearn/__init__.py": b"x"})
    folder = tmp_path / "digits"
    assert fetch_digits(folder, tmp_path) == {"digits": {"pictures": 3, "classes": 2}}
    source = source_config(f"tars:{folder}").build("all", image_size=8)
    examples = [source[index] for index in range(3)]
    assert [example.labels for example in examples] == [("7",), ("0",), ("7",)]
    assert examples[0].texts[0].text == "7"
    pixels = pixels_of(examples[0])
    assert pixels.shape == (8, 8, 3)
    assert pixels[1, 1].tolist() == [0, 0, 0]
    assert (pixels != 255).any(2).sum() == 1
    assert pixels_of(examples[1])[7, 7].tolist() == [128, 128, 128]
    check_manifest(folder / "digits.tar")
    assert json.loads((folder / "manifest.json").read_text())["packages"][0]["package"] == "scikit-learn"


def test_a_package_without_digits_is_named(package, tmp_path):
    package({"sklearn/__init__.py": b"x"})
    with pytest.raises(UserError, match=r"\.whl has no sklearn/datasets/data/digits\.csv\.gz"):
        fetch_digits(tmp_path / "digits", tmp_path)
    assert not (tmp_path / "digits").exists()
