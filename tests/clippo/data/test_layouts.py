"""The same examples as a folder, a table, tars and Parquet files are the same, and train the same model."""

import dataclasses
import json

import pytest
import torch

from clippo.data.check import check, random_pairs
from clippo.data.convert import convert
from clippo.data.decode import pixels_of
from clippo.data.emoji import EmojiConfig
from clippo.data.made_up import MadeUpConfig
from clippo.data.spec import source_config
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.model import Clippo
from clippo.recipes.own import recipe
from clippo.renderer import AlignedRenderer
from clippo.training.run_folder import RunFolder
from clippo.training.trainer import train

LAYOUTS = ("folder", "csv", "tsv", "jsonl", "tars", "parquet")


def examples_of(spec, split="all"):
    source = source_config(spec).build(split, image_size=32)
    return [source[index] for index in range(len(source))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_examples(layouts, files, layout):
    found = examples_of(layouts[layout])
    assert [(one.key, one.image, one.texts[0].text) for one in found] == [
        (name.partition(".")[0], content, text) for name, (content, text) in files.items()
    ]
    held_out = [one.key for one in examples_of(layouts[layout] + "?held_out=0.2", "held_out")]
    assert held_out == [one.key for one in examples_of(layouts["folder"] + "?held_out=0.2", "held_out")]
    assert 0 < len(held_out) < 12


def tiny(spec):
    config = recipe(source_config(spec))
    sizes = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "image_size": 32, "embed_dim": 32}
    model = dataclasses.replace(config.model, **sizes)
    return dataclasses.replace(
        config, model=model, steps=6, warmup_steps=2, workers=0, log_every=1, batch_size=8
    )


def test_classes_are_measured_where_there_are_some(files, tmp_path):
    for number, (content, _) in enumerate(files.values()):
        folder = tmp_path / "photos" / ("cat", "golden_retriever")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(content)
    config = tiny(f"folder:{tmp_path}/photos?held_out=0.5")
    assert config.evaluators.keys() == {"held_out", "zero_shot"}
    train(dataclasses.replace(config, steps=1, warmup_steps=0, batch_size=4), tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {"evaluator", "metric", "value", "low", "high"} in [
        row.keys() for row in rows if row["evaluator"] == "zero_shot"
    ]


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_losses(layouts, tmp_path):
    """To the last bit."""
    found = {}
    for layout in ("folder", "csv", "tars", "parquet"):
        train(tiny(layouts[layout] + "?held_out=0.2"), tmp_path / layout)
        found[layout] = losses(tmp_path / layout)
    assert len(found["folder"]) == 6
    assert all(one == found["folder"] for one in found.values())


@pytest.mark.slow
def test_the_recipe_goes_on_from_weights(layouts, tmp_path):
    config = tiny(layouts["folder"])
    train(config, tmp_path / "first")
    checkpoint = RunFolder(tmp_path / "first").newest_checkpoint()
    later = recipe(config.data, init_from=str(checkpoint))
    assert later.model == config.model
    assert later.renderer == config.renderer
    later = dataclasses.replace(later, steps=1, warmup_steps=0, batch_size=8, learning_rate=1e-30, workers=0)
    train(later, tmp_path / "second")
    before, after = (
        Clippo.from_pretrained(RunFolder(tmp_path / n).newest_checkpoint()) for n in ("first", "second")
    )
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value)
    checkpoint.rename(tmp_path / "gone")
    train(dataclasses.replace(later, steps=2), tmp_path / "second", resume=True)  # needs the weights no more
    (tmp_path / "gone").rename(checkpoint)
    other = dataclasses.replace(later, model=dataclasses.replace(later.model, depth=2))
    with pytest.raises(
        UserError, match=r"must have the configuration of the run: model\.depth is 1 there and 2 here"
    ):
        train(other, tmp_path / "third")


def test_the_sizes_follow_from_the_number_of_examples(layouts):
    config = recipe(source_config(layouts["folder"]))
    assert (config.model.width, config.model.image_size, config.batch_size, config.steps) == (
        96,
        96,
        16,
        1000,
    )
    assert config.evaluators.keys() == {"held_out"}
    assert recipe(source_config(layouts["folder"] + "?held_out=0")).evaluators == {}


def test_broken_examples_are_written_down(files, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number, (content, text) in enumerate(files.values()):
        (root / f"{number}.jpg").write_bytes(content if number % 6 else content[:100])
        (root / f"{number}.txt").write_text(text)
    config = dataclasses.replace(tiny(f"folder:{root}?held_out=0"), steps=9)
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/rejected.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {"0", "6", "12", "18"}
    assert all(line["reason"] for line in lines)
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["rejected"] == len(lines)
    RunFolder(tmp_path / "run").drop_metrics_after(4)
    kept = [json.loads(line) for line in (tmp_path / "run/rejected.jsonl").read_text().splitlines()]
    assert kept == [line for line in lines if line["step"] <= 4]


@pytest.mark.slow
def test_a_run_on_too_many_broken_examples_ends(files, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number, (content, text) in enumerate(files.values()):
        (root / f"{number}.jpg").write_bytes(content if number else b"")
        (root / f"{number}.txt").write_text(text)
    config = dataclasses.replace(tiny(f"folder:{root}?held_out=0"), steps=200, batch_size=24, log_every=200)
    with pytest.raises(
        UserError, match=r"42 of the first 1,008 examples .* more than 1\.0%.*rejected\.jsonl"
    ):
        train(config, tmp_path / "run")
    train(dataclasses.replace(config, max_broken_share=0.1, steps=45), tmp_path / "another")


def test_check(files, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    contents = [*files.values()]
    contents += [
        contents[0],
        (contents[1][0][:200], "a broken one"),
        (contents[2][0], "2024"),
        (contents[3][0], "猫" * 70),
    ]
    for number, (content, text) in enumerate(contents):
        (root / f"{number:02}.jpg").write_bytes(content)
        (root / f"{number:02}.txt").write_text(text)
    found = check(source_config(f"folder:{root}").build("all", image_size=64), AlignedRenderer(64))
    assert found.examples == 27
    assert found.left_out == {"examples without a text": 1, "texts: no letters": 1}
    assert [key for key, _ in found.broken] == ["25"]
    assert (found.same_bytes, found.same_text) == (2, 1)
    assert found.scripts["Hani"] == 1
    assert found.cut == 1  # 16 wide characters fit
    lines = str(found).splitlines()
    assert lines[:3] == [
        "27 examples, 26 texts",
        "left out: 1 examples without a text, 1 texts: no letters",
        "broken: 1",
    ]
    assert "pictures: width 40 to 40 px, median 40; height 40 to 40 px, median 40" in lines
    assert "duplicates: 2 files, 0 pictures that look alike, 1 first texts" in lines


def test_pairs_are_those_that_can_be_read(files, tmp_path):
    for number, (content, text) in enumerate([*files.values()][:6]):
        (tmp_path / f"{number}.jpg").write_bytes(content if number else b"x")
        (tmp_path / f"{number}.txt").write_text(text)
    source = source_config(f"folder:{tmp_path}").build("all", image_size=32)
    (tmp_path / "3.jpg").unlink()
    transform, renderer = SquashConfig().build(32), AlignedRenderer(32)
    images, texts = random_pairs(source, transform, renderer, count=24)
    assert len(images) == len(texts) == 4
    assert len(random_pairs(source, transform, renderer, count=2)[1]) == 2


def test_pairs_of_texts_are_checked_and_drawn(tmp_path):
    source = MadeUpConfig(count=4, words=2, text_share=0.5).build("all", image_size=64)
    found = check(source, AlignedRenderer(64))
    assert (found.examples, len(found.sides), len(found.lengths), found.broken) == (4, 2, 6, [])
    images, texts = random_pairs(source, SquashConfig().build(64), AlignedRenderer(64), count=4)
    assert {image.shape for image in images} == {(64, 64, 3)}
    seconds = {text.text for index in (1, 3) for text in source[index].texts[1:]}
    assert seconds <= {*texts}
    with pytest.raises(UserError, match="made-up/1 is a pair of texts; tars are for pictures with texts"):
        convert(source, tmp_path, per_tar=10)


def test_pictures_that_look_alike(tmp_path, files):
    from PIL import Image

    for number, (content, _) in enumerate([*files.values()][:3]):
        (tmp_path / f"{number}.png").write_bytes(content)
        with Image.open(tmp_path / f"{number}.png") as image:
            image.convert("RGBA").resize((120, 120), Image.Resampling.BICUBIC).save(
                tmp_path / f"{number}-large.png"
            )
        for name in (f"{number}.txt", f"{number}-large.txt"):
            (tmp_path / name).write_text(f"number of this picture: {name}")
    found = check(source_config(f"folder:{tmp_path}").build("all", image_size=64), AlignedRenderer(64))
    assert found.same_bytes == 0
    assert found.same_look >= 2  # at 40 px, one loses its outlines


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_conversion_keeps_everything(layouts, tmp_path, layout):
    tars, broken = convert(
        source_config(layouts[layout]).build("all", image_size=32), tmp_path / "out", per_tar=10
    )
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    assert not broken
    assert examples_of(f"tars:{tmp_path}/out") == examples_of(layouts[layout])
    with pytest.raises(UserError, match="out holds tars already"):
        convert(source_config(layouts[layout]).build("all", image_size=32), tmp_path / "out")


@pytest.mark.slow
def test_conversion_of_pictures_that_are_no_files(tmp_path):
    """Emoji have transparent pixels and texts in two languages."""
    source = EmojiConfig(languages=("en", "zh")).build("held_out", image_size=32)
    convert(source, tmp_path / "out")
    found = examples_of(f"tars:{tmp_path}/out")
    plain = SquashConfig().build(32)
    for index in (0, 7, len(source) - 1):
        assert (plain(pixels_of(found[index])) == plain(source[index].image)).all()
        before, after = ({(t.text, t.language) for t in one.texts} for one in (source[index], found[index]))
        assert before == after


def test_conversion_of_names_with_dots_and_of_broken_pictures(tmp_path, files):
    content = next(iter(files.values()))[0]
    for name in ("a.b.png", "a-b.png", "c.png"):
        (tmp_path / name).write_bytes(content if name != "c.png" else b"x")
        (tmp_path / name).with_suffix(".txt").write_text(f"text of {name[:-4]}")
    _, broken = convert(source_config(f"folder:{tmp_path}").build("all", image_size=32), tmp_path / "out")
    assert [key for key, _ in broken] == ["c"]
    found = {one.key: one.texts[0].text for one in examples_of(f"tars:{tmp_path}/out")}
    assert found == {"a-b": "text of a-b", "a-b-2": "text of a.b"}
