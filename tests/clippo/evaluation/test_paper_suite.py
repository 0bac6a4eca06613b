"""The suite of the paper, on small data sets in the layouts of the real ones."""

import json
import re

import numpy as np
import pytest

from clippo.cli import main
from clippo.data.convert import png
from clippo.evaluation.suites import find_suite
from clippo.evaluation.suites.paper import FEW_SHOT, PROMPTS_FILE, ZERO_SHOT
from clippo.model import create_model
from clippo.results import read_results
from tests.clippo.conftest import write_part
from tests.clippo.data.conftest import split_image, write_tar, write_xm3600
from tests.clippo.evaluation.conftest import write_glue

CLASSES = ("tench", "tiger cat", "great white shark, white shark")

pytestmark = pytest.mark.slow


def grey(level: int) -> bytes:
    return png(np.full((8, 8, 3), level, np.uint8))


def write_classes(root):
    """Write a data set as CLIP_benchmark does, with three pictures a class to train on, and two to test."""
    root.mkdir()
    (root / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (root / PROMPTS_FILE).write_text("a photo of a {c}.\na {c}.\n")
    for part, per_class in (("train", 3), ("test", 2)):
        (root / part).mkdir()
        (root / part / "nshards.txt").write_text("1")
        members = {}
        for number in range(per_class * len(CLASSES)):
            members[f"s{number:07}.cls"] = str(number % len(CLASSES)).encode()
            members[f"s{number:07}.png"] = grey(20 * number)
        write_tar(root / part / "0.tar", members)


def write_karpathy(root, name, folder, **fields):
    """Write a split of Karpathy with 24 pictures to test, and one to train on, which is not there."""
    file = "COCO_val2014_{:012}.jpg" if name == "coco" else "{}.jpg"
    pictures = root / folder
    pictures.mkdir(parents=True)
    images = [split_image(n, "test", filename=file.format(n), **fields) for n in range(24)]
    for number, image in enumerate(images):
        (pictures / image["filename"]).write_bytes(grey(10 * number))
    images.append(split_image(24, "train", filename=file.format(24), **fields))
    (root / f"dataset_{name}.json").write_text(json.dumps({"dataset": name, "images": images}))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The data sets of the paper."""
    root = tmp_path_factory.mktemp("data")
    for name in {*ZERO_SHOT.values(), *FEW_SHOT.values()}:
        write_classes(root / name)
    write_karpathy(root / "coco", "coco", "val2014", filepath="val2014")
    write_karpathy(root / "flickr30k", "flickr30k", "flickr30k-images")
    write_xm3600(root / "xm3600")
    write_glue(root / "glue")
    write_part(root / "vqa2", "train2014", [1000 * (n // 2) + n % 2 for n in range(20)])
    write_part(root / "vqa2", "val2014", [50_000, 50_001])
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    create_model("clippo-mu16", image_size=64, embed_dim=8).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, texts, monkeypatch):
    """A cache folder that holds the texts that `clippo data fetch texts` brings."""
    (tmp_path / "cache" / "clippo").mkdir(parents=True)
    (tmp_path / "cache" / "clippo" / "texts").symlink_to(texts)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def evaluate(*sources, root, out):
    main(["evaluate", *map(str, sources), "--suite", "paper", "--root", str(root), "--out", str(out)])


def test_everything_is_measured(root, model, tmp_path, capsys):
    evaluate(model, root=root, out=tmp_path / "out")
    printed = capsys.readouterr().out
    assert "left out" not in printed
    results = read_results(tmp_path / "out" / "results.json")
    names = find_suite("paper", root).keys()
    assert {row["evaluator"] for row in results.rows} == names
    assert json.loads((tmp_path / "out" / "results.json").read_text())["missing"] == []
    assert all(results.provenance["data"][name] for name in names)
    assert all(np.isfinite(row["value"]) for row in results.rows)
    values = {(row["evaluator"], row["metric"]): row["value"] for row in results.rows}
    assert values["zero_shot_imagenet", "chance/top1"] == pytest.approx(100 / 3)
    assert ("zero_shot_pets", "zeroshot_classification_templates/top1") in values
    assert values["coco", "en/chance/R@1"] == pytest.approx(100 / 24)  # those of the test part alone
    assert values["xm3600", "chance/R@1"] == pytest.approx(100 / 20)
    assert ("glue", "probe/average") in values
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert all(f"| {name} |" in summary for name in names)
    drawn = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert drawn > {"summary", "coco", "zero_shot_pets", "vqa2", "modality_gap", "attention_maps"}
    assert re.search(r"written to .*results\.json", printed)


def test_data_sets_that_are_not_there_are_named(model, tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "none", tmp_path / "out"
    evaluate(model, root=root, out=out)
    printed = capsys.readouterr().out
    content = json.loads((out / "results.json").read_text())
    assert {row["evaluator"] for row in content["rows"]} == {"token_efficiency"}
    missing = {row["evaluator"]: row["reason"] for row in content["missing"]}
    assert missing.keys() == find_suite("paper", root).keys() - {"token_efficiency"}
    for name, reason in missing.items():
        assert str(root) in reason
        assert f"left out: {name}: {reason}" in printed
    assert "there is no file" in missing["zero_shot_pets"]  # and not that its prompts are missing
    assert (out / "summary.png").exists()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache"))
    evaluate(model, root=root, out=tmp_path / "nothing")
    assert "left out: token_efficiency: there is no file" in (printed := capsys.readouterr().out)
    assert "written to" not in printed
    assert not (tmp_path / "nothing").exists()


def test_the_mean_of_several_models(model, tmp_path, capsys):
    """The data set is the same, and so are the models, so that the mean has no deviation."""
    copy = tmp_path / "copy"
    copy.symlink_to(model)
    write_xm3600(tmp_path / "data" / "xm3600")
    evaluate(model, copy, root=tmp_path / "data", out=tmp_path / "out")
    means = read_results(tmp_path / "out" / "results.json")
    assert means.provenance["sources"] == [str(model), str(copy)]
    assert {row["evaluator"] for row in means.rows} == {"xm3600", "token_efficiency"}
    for name in (model.name, "copy"):
        own = read_results(tmp_path / "out" / name / "results.json").rows
        values = {(row["evaluator"], row["metric"]): row["value"] for row in own}
        for row in means.rows:
            assert row["value"] == pytest.approx(values[row["evaluator"], row["metric"]])
            assert (row["runs"], row["deviation"]) == (2, pytest.approx(0, abs=1e-9))
    assert "± 0.0 of 2 runs" in capsys.readouterr().out
