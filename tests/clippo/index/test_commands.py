"""`clippo index` and `clippo search` as one types them."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clippo.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in the folder that holds `photos`, and gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        main([*map(str, arguments)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def indexed(run, photos, model_folder) -> str:
    (photos / "bad.png").write_text("no picture")
    return run("index", "photos", "--model", model_folder, "--out", "pics.idx")


def test_an_index_is_made_and_brought_up_to_date(run, indexed, photos):
    assert indexed == (
        "left out: bad.png: not a picture in JPEG, PNG, WEBP, GIF, BMP, TIFF\n"
        "pics.idx: 10 pictures; 10 new, 0 changed, 0 moved, 0 deleted, 1 left out\n"
    )
    (photos / "bad.png").unlink()
    (photos / "0.png").rename(photos / "first.png")
    (photos / "2.png").unlink()
    again = run("index", "photos", "--out", "pics.idx")
    assert again == "pics.idx: 9 pictures; 0 new, 0 changed, 1 moved, 1 deleted, 0 left out\n"
    assert run("index", "photos", "--out", "pics.idx", "--remove") == "pics.idx: 9 pictures removed\n"
    assert run("search", "pics.idx", "dog") == ""


def test_search_by_text_and_picture(run, indexed, photos):
    lines = run("search", "pics.idx", "dog", "--top", 3).splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(Path(line.split("  ")[-1]).exists() for line in lines)
    found = run("search", "pics.idx", "--image", "photos/4.png", "--top", 2, "--out", "sheet.png")
    assert found.startswith(f" 1.000  {photos}/4.png\n")
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (3 * 104 + 16, 104 + 8)
        query, first = (np.asarray(sheet)[20:90, left + 12 : left + 82] for left in (8, 120))
    assert np.abs(query.astype(int) - first).mean() < 12  # the first is the picture itself, as a thumbnail
    [entry] = json.loads(
        run(
            "search", "pics.idx", "dog", "--image", photos / "trip/sea/5.png", "--top", 1, "--json",
            "--folder", "trip/sea", "--since", "2020-01-01",
        )
    )  # fmt: skip
    assert (entry["key"], entry["path"]) == ("trip/sea/5.png", f"{photos}/trip/sea/5.png")
    assert (entry["width"], entry["height"], entry["texts"]) == (80, 60, {})
    assert run("search", "pics.idx", "dog", "--until", "2020-01-01") == ""


def test_groups_of_near_duplicates(run, indexed, photos, model_folder):
    with Image.open(photos / "4.png") as image:
        image.resize((70, 52)).save(photos / "small.png")
    for number in range(9):
        Image.new("RGB", (40, 40), (255 * (number % 2), 255 * (number // 2 % 2), 0)).save(
            photos / f"{number}.gif"
        )
    run("index", "photos", "--out", "pics.idx")
    groups = json.loads(run("search", "pics.idx", "--duplicates", 0.9999, "--folder", ".", "--json"))
    assert [f"{number}.gif" for number in (0, 4, 8)] in [
        [entry["key"] for entry in group] for group in groups
    ]
    lines = run("search", "pics.idx", "--duplicates", 0.9999).splitlines()
    assert lines[-1].startswith(f"{len(groups)} groups of ")
    assert lines.count("") == len(groups)


def test_the_texts_of_a_source_are_shown(run, photos, model_folder):
    (photos.parent / "pairs.csv").write_text("image,de,en\nphotos/0.png,Hund,dog\nphotos/2.png,Katze,cat\n")
    source = "pairs.csv?image=image&text=de:de,en:en"
    made = run("index", source, "--model", model_folder, "--out", "pairs.idx", "--thumbnail-px", 16)
    assert made.startswith("pairs.idx: 2 pictures; 2 new, ")
    lines = run("search", "pairs.idx", "dog").splitlines()
    assert {line[8:] for line in lines} == {"photos/0  dog", "photos/2  cat"}
    [entry, _] = json.loads(run("search", "pairs.idx", "--image", "photos/2.png", "--json"))
    assert entry["texts"] == {"de": "Katze", "en": "cat"}
    assert entry["source"] == f"table:{source}"


def test_a_moved_model_is_named(run, indexed, model_folder, tmp_path, capsys):
    model_folder.rename(tmp_path / "moved")
    try:
        with pytest.raises(SystemExit):
            run("search", "pics.idx", "dog")
        assert "there is no such file or folder" in capsys.readouterr().err
        assert run("search", "pics.idx", "dog", "--model", "moved", "--top", 1)
    finally:
        (tmp_path / "moved").rename(model_folder)


def test_the_index_of_another_model_is_refused(run, indexed, model, tmp_path, capsys):
    other = copy.deepcopy(model)
    other.init_weights()
    other.save_pretrained(tmp_path / "other")
    for arguments in (
        ["search", "pics.idx", "dog", "--model", "other"],
        ["index", "photos", "--model", "other", "--out", "pics.idx"],
    ):
        with pytest.raises(SystemExit) as exit_info:
            run(*arguments)
        assert exit_info.value.code == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert re.search(
            r"pics.idx was made with the model .*tiny \(weights .*, not with .*other \(weights", line
        )


@pytest.mark.slow
def test_search_does_not_import_the_compiler(indexed):
    """It takes as long to import as all the rest that a search does."""
    code = (
        "import sys; from clippo.cli import main; main(['search', 'pics.idx', 'dog', '--top', '1']); "
        "print({'torch._dynamo', 'torch.distributed.fsdp', 'matplotlib', 'usearch'} & {*sys.modules})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines()[-1] == "set()", run.stderr
