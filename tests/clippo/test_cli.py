"""The program, run as a user runs it: in another folder, which holds a stranger's model.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import clippo_kernels
from clippo import __version__
from clippo.arguments import colours_as_asked, one_line
from clippo.cli import main
from clippo.data.convert import png
from clippo.data.decode import pixels_of
from clippo.data.emoji import EmojiConfig
from clippo.data.spec import source_config
from clippo.finetuning.fine_tuned import FineTuned
from clippo.model import Clippo, ClippoConfig
from clippo.recipes import find_recipe
from clippo.renderer import AlignedRenderer, ParagraphRenderer, UnifontRenderer
from clippo.results import read_results
from clippo.training.run_folder import RunFolder

SCRIPT = Path(sys.executable).with_name("clippo")
MODULE = [sys.executable, "-m", "clippo"]


@pytest.fixture
def cwd(tmp_path) -> Path:
    for name in ("model.py", "renderer.py", "bench.py"):
        (tmp_path / name).write_text(f"raise SystemExit('a stranger was imported as {name}')")
    return tmp_path


def clippo(*arguments: object, cwd: Path, program=(str(SCRIPT),), **environment: str):
    return subprocess.run(
        [*program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def assert_one_line_of_complaint(stderr: str, message: str) -> None:
    [line] = stderr.strip().splitlines()
    assert line.startswith("clippo: ")
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "verb", "example"),
    [
        ((str(SCRIPT),), (), "search"),
        ((str(SCRIPT),), ("train",), "clippo train emoji --out runs/mine --seed 1"),
        ((str(SCRIPT),), ("train", "emoji"), "--model.num-heads"),
        ((str(SCRIPT),), ("train", "own"), "--model.num-heads"),
        ((str(SCRIPT),), ("data",), "clippo data check folder:photos --sheet pairs.png"),
        ((str(SCRIPT),), ("data", "check"), "--sheet"),
        (MODULE, ("evaluate",), "clippo evaluate runs/emoji"),
        (MODULE, ("embed",), "clippo embed runs/photos folder:photos --out photos.npy"),
        (MODULE, ("finetune",), "clippo finetune runs/emoji sentiment --out runs/sentiment --max-steps 200"),
        (MODULE, ("search",), "clippo search runs/emoji"),
        (MODULE, ("index",), "clippo index photos --model runs/photos --out photos.idx"),
        (MODULE, ("render",), "--out cat.png"),
        ((str(SCRIPT),), ("fonts",), "clippo fonts unifont.otf"),
        (MODULE, ("runs",), "clippo runs runs/emoji runs/mine --plot curves.png"),
    ],
)
def test_help_teaches(cwd, program, verb, example):
    run = clippo(*verb, "--help", cwd=cwd, program=program)
    assert run.returncode == 0, run.stderr
    assert example in run.stdout


def test_render_writes_what_the_tower_reads(cwd):
    run = clippo("render", "Ça va? 你好", "--out", "hello.png", "--size", 64, cwd=cwd)
    assert run.returncode == 0, run.stderr
    with Image.open(cwd / "hello.png") as picture:
        assert np.array_equal(np.asarray(picture), UnifontRenderer(64)(["Ça va? 你好"])[0])


@pytest.mark.slow
def test_render_a_file_into_a_folder_or_a_sheet(cwd):
    lines = ["one cat", "две кошки", "شجرة"]
    (cwd / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    run = clippo("render", "--file", "texts.txt", "--out", "all", "--renderer", "paragraph", cwd=cwd)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "paragraph: 3 strings, 20 code points; scripts Arab Cyrl Latn\n"
    expected = ParagraphRenderer(224)(lines)
    for number, image in enumerate(expected, start=1):
        with Image.open(cwd / "all" / f"000{number}.png") as picture:
            assert np.array_equal(np.asarray(picture), image)
    run = clippo(
        "render", "zwei", "--file", "texts.txt", "--out", "sheet.png", "--renderer", "unifont", "paragraph",
        cwd=cwd,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    with Image.open(cwd / "sheet.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[1] > 2 * 224
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (16, 224))
    wanted = ParagraphRenderer(224)(["две кошки"])[0, :16]
    assert (windows == wanted).all(axis=(2, 3)).any()


@pytest.mark.slow
def test_fonts_says_what_is_covered_and_what_is_missing(cwd):
    run = clippo("fonts", cwd=cwd)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert re.match(r"unifont.otf +5\d,\d{3} code points +\d+ scripts  /.*unifont.otf", lines[0])
    [together] = [line for line in lines if line.startswith("together")]
    assert int(re.search(r"(\d+) of \d+ scripts", together)[1]) > 100
    assert "fonts-noto-cjk" in run.stdout or "NotoSansCJK-Regular.ttc" in run.stdout


@pytest.mark.slow
def test_doctor_says_what_is_here_and_how_to_get_the_rest(cwd):
    (cwd / "fonts").mkdir()
    run = clippo("doctor", cwd=cwd, CLIPPO_KERNELS_BACKEND="triton", TRITON_INTERPRET="0")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"clippo      {__version__}, Python {sys.version.split()[0]}, ")
    assert f"torch {torch.__version__}" in lines[1]
    assert f"skia-python {version('skia-python')}" in lines[1]
    if not torch.cuda.is_available():
        assert (
            "ops         none: CLIPPO_KERNELS_BACKEND=triton needs Triton, and tensors on a GPU" in run.stdout
        )
    assert re.search(r"^extras      .*\bparquet\b", run.stdout, re.MULTILINE)
    assert "pytest" not in run.stdout


def test_doctor_names_the_command_for_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("clippo.renderer.fonts.SYSTEM_FONT_FOLDERS", ())
    monkeypatch.setenv("CLIPPO_FONT_PATH", str(tmp_path))
    monkeypatch.setattr(
        "clippo.cli.doctor.version_of", lambda name: None if name == "pyarrow" else version(name)
    )
    monkeypatch.setattr(
        "clippo.cli.doctor.requires", lambda name: ["torch>=2.11", "pyarrow>=16; extra == 'parquet'"]
    )
    main(["doctor"])
    out = capsys.readouterr().out
    assert "fonts       none of the usual ones" in out
    assert "missing: apt-get install fonts-unifont fonts-noto-core fonts-noto-cjk" in out
    assert "extras      none" in out
    assert "missing: pyarrow; pip install 'clippo-kernels[parquet]'" in out


@pytest.mark.long
def test_train_then_evaluate_and_search(cwd):
    small = "--steps 4 --batch-size 8 --model.width 48 --model.depth 1 --model.image-size 32".split()
    parts = "--renderer paragraph --renderer.font-size 12 --loss sigmoid --loss.initial-bias=-5".split()
    run = clippo(
        "train",
        "emoji",
        "--out",
        "run",
        *small,
        *parts,
        "--data.languages",
        "en",
        "ru",
        cwd=cwd,
        program=MODULE,
    )
    assert run.returncode == 0, run.stderr
    assert "ru/text_to_image" in run.stdout
    config = json.loads((cwd / "run" / "config.json").read_text())
    assert config["steps"] == 4
    assert config["data"]["languages"] == ["en", "ru"]
    assert (config["renderer"]["type"], config["renderer"]["font_size"]) == ("paragraph", 12)
    assert config["loss"] == {"type": "sigmoid", "initial_bias": -5}

    run = clippo("evaluate", "run", "--out", "again", cwd=cwd)
    assert run.returncode == 0, run.stderr
    trained, again = (read_results(cwd / folder / "results.json") for folder in ("run", "again"))
    assert again.rows == trained.rows
    assert (cwd / "again" / "held_out.png").exists()

    run = clippo("search", "run", "собака", "--top", 3, "--out", "grid.png", cwd=cwd)
    assert run.returncode == 0, run.stderr
    kept = (cwd / "run" / "embeddings.safetensors").stat().st_mtime_ns
    assert clippo("search", "run", "собака", "--top", 3, cwd=cwd).stdout == run.stdout
    assert (cwd / "run" / "embeddings.safetensors").stat().st_mtime_ns == kept
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    with Image.open(cwd / "grid.png") as picture:
        assert picture.width == 4 * 104 + 16


@pytest.mark.slow
def test_own_data_from_the_first_look_to_the_measure(cwd, monkeypatch, capsys):
    """Of a folder: check, convert, train, evaluate on other files, search."""
    monkeypatch.chdir(cwd)

    def printed(*arguments: object) -> str:
        """The output of a verb. One process runs all of them, because each would import PyTorch."""
        main([*map(str, arguments)])
        return capsys.readouterr().out

    source = EmojiConfig(languages=("en",)).build("all", image_size=48)
    photos = cwd / "photos"
    photos.mkdir()
    for number in range(40):
        example = source[30 * number]
        (photos / f"{number}.png").write_bytes(png(example.image))
        (photos / f"{number}.txt").write_text(example.texts[0].text)
    found = printed("data", "check", photos, "--sheet", "pairs.png", "--size", 96)
    assert found.startswith("40 examples, 40 texts\nbroken: 0\n")
    with Image.open("pairs.png") as picture:
        assert picture.size == (4 * (2 * 96 + 24), 6 * 104 + 8)
    assert printed("data", "convert", photos, "--to", "shards") == "shards: 1 tars, 0 examples left out\n"
    small = "--steps 4 --warmup-steps 1 --model.width 48 --model.depth 1 --workers 0".split()
    assert "any/text_to_image" in printed("train", "own", "--data", f"folder:{photos}?held_out=0.2", *small)
    assert RunFolder("runs/own").config().data.held_out == 0.2
    two = ["--data", f"{photos}?held_out=0.2=1", "--data", f"{cwd}/shards=2"]
    printed("train", "own", *two, *small, "--out", "runs/two")
    assert RunFolder("runs/two").config().data.shares == (1.0, 2.0)
    printed("train", "own", "--resume", "--out", "runs/two")
    printed("evaluate", "runs/own", "--data", f"{cwd}/shards?held_out=0.5", "--out", "again")
    assert {row["evaluator"] for row in read_results(Path("again/results.json")).rows} == {"held_out"}
    assert len(printed("search", "runs/own", "dog", "--top", 3).splitlines()) == 3


@pytest.mark.slow
def test_resume_takes_the_configuration_of_the_run(finished, tmp_path, monkeypatch, capsys):
    """Only the length and the intervals of a run may be given anew."""
    shutil.copytree(finished, tmp_path / "run")
    called = []
    monkeypatch.setattr("clippo.training.trainer.train", lambda config, out, resume: called.append(config))
    main(["train", "emoji", "--resume", "--out", str(tmp_path / "run")])
    main(["train", "emoji", f"--out={tmp_path / 'run'}", "--resume", "--steps", "50", "--log-every", "2"])
    begun = RunFolder(finished).config()
    assert called == [begun, replace(begun, steps=50, log_every=2)]
    main(["train", "emoji", "--resume", "--out", str(tmp_path / "none yet")])
    assert called[-1] == find_recipe("emoji")()


@pytest.mark.slow
def test_embeddings_are_kept_until_something_changes(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    first, second = torch.ones(3, 2), torch.zeros(3, 2)
    assert torch.equal(run.cached_embeddings("a", lambda: first), first)
    assert torch.equal(run.cached_embeddings("a", lambda: second), first)
    assert torch.equal(run.cached_embeddings("b", lambda: second), second)  # other data
    model = run.newest_checkpoint() / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")  # another model
    assert torch.equal(run.cached_embeddings("b", lambda: first), first)
    (run.path / "embeddings.safetensors").write_bytes(b"damaged")
    assert torch.equal(run.cached_embeddings("b", lambda: second), second)


def test_embed_a_folder_and_lines_with_a_run(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)):
        (tmp_path / f"photos/{number}.png").write_bytes(png(pixels))
        (tmp_path / f"photos/{number}.txt").write_text(f"a picture\n{number} pictures\n")
    (tmp_path / "photos/3.png").write_bytes(b"no picture")
    (tmp_path / "photos/3.txt").write_text("a broken one")
    monkeypatch.chdir(tmp_path)
    main(["embed", str(finished), "photos", "--out", "z.npy"])
    printed = capsys.readouterr().out
    assert "left out: 3: not a picture" in printed
    assert "9 x 32 float32, 1 examples left out\nwritten to z.npy, z.jsonl, z.manifest.json\n" in printed
    model, config = RunFolder(finished).load_model(), RunFolder(finished).config()
    source = source_config("photos").build("all", image_size=48)
    z = np.load("z.npy").reshape(3, 3, 32)  # an image and two texts of each
    for number in range(3):
        pixels = config.transform.build(48)(pixels_of(source[number]))
        expected = [model.encode_image(pixels[None])]
        expected += [model.encode_text([text.text]) for text in source[number].texts]
        np.testing.assert_allclose(z[number], torch.cat(expected), atol=1e-5)
    manifest = json.loads(Path("z.manifest.json").read_text())
    assert (manifest["data"], manifest["fingerprint"]) == ("photos", source.fingerprint)
    assert manifest["transform"]["type"] == "place"
    assert manifest["renderer"] == model.renderer.description

    Path("lines.txt").write_text("\ufeffein Hund\r\n\r\nзмія\r\n", encoding="utf-8")
    main(["embed", str(finished), "--texts", "lines.txt", "--out", "lines.parquet", "--dtype", "float16"])
    assert "3 x 32 float16, 0 examples left out\nwritten to lines.parquet, " in capsys.readouterr().out
    table = pyarrow.parquet.read_table("lines.parquet")
    assert table["text"].to_pylist() == ["ein Hund", "", "змія"]
    expected = model.encode_text(["ein Hund", "", "змія"])
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected, atol=1e-3)


@pytest.mark.slow
def test_embed_the_standard_input(finished, cwd):
    command = f"printf 'one\ntwo\n' | {SCRIPT} embed {finished} --texts - --out z.npy"
    run = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert [json.loads(line)["text"] for line in (cwd / "z.jsonl").read_text().splitlines()] == ["one", "two"]
    assert np.load(cwd / "z.npy").shape == (2, 32)


def test_colours(monkeypatch):
    assert (
        one_line("\x1b[31m╭─ Parsing error ─╮\n│ \x1b[1mError parsing config.model: no\x1b[0m │\n╰─╯") == "no"
    )
    monkeypatch.setenv("TERM", "xterm")
    with colours_as_asked():
        assert os.environ["TERM"] == "xterm"
    monkeypatch.setenv("NO_COLOR", "1")
    with colours_as_asked():
        assert os.environ["TERM"] == "dumb"
    assert os.environ["TERM"] == "xterm"


def test_help_needs_no_torch(cwd):
    code = "import sys; from clippo.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    verbs = "data demo doctor embed evaluate export finetune fonts index render runs search train"
    for verb in verbs.split():
        assert f"  {verb} " in run.stdout


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"clippo {__version__}\n"
    assert clippo_kernels.__version__ == __version__ == version("clippo-kernels")


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(cwd):
    command = f"{SCRIPT} train emoji --help | head -1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "RUN", "  "], "the query is empty"),
        (["search", "RUN", "dog", "--top", 0], "--top must be at least 1, got 0"),
        (["search", "nowhere", "dog"], "there is no index nowhere: `clippo index` makes one"),
        (["search", "model.py", "dog"], "cannot read the index model.py: file is not a database"),
        (["search", "RUN", "dog", "--json"], "of a run, clippo search takes a query, --top and --out alone"),
        (["search", "a.idx", "--duplicates", 1], "--duplicates must be above 0 and below 1, got 1.0"),
        (["search", "a.idx", "dog", "--duplicates", 0.9], "--duplicates goes with neither a query nor"),
        (["search", "a.idx", "dog", "--since", "May"], "since"),
        (["index", "."], "out"),
        (["index", "emoji:", "--out", "new"], "new will be a new index: name a --model, such as runs/photos"),
        (["index", ".", "--model", "RUN", "--out", "new"], "holds no picture that ends in .jpg, .jpeg"),
        (["index", "nowhere", "--model", "RUN", "--out", "new"], "nowhere is not a folder"),
        (["index", "emoji:", "--model", "RUN", "--out", "no/new"], "there is no folder no"),
        (
            ["index", "emoji:", "--model", "RUN", "--out", "model.py"],
            "cannot write the index model.py: file is",
        ),
        (["index", "emoji:", "--out", "new", "--workers", -1], "--workers must be from 0 to 256, got -1"),
        (["index", "emoji:", "--out", "new", "--thumbnail-px", 8], "--thumbnail-px must be from 16 to 1024"),
        (["index", "emoji:", "--out", "new", "--remove"], "there is no index new"),
        (["search", ".", "dog"], "is not the folder of a run"),
        (["search", "RUN", "dog", "--out", "no/such/folder/x.png"], "cannot write the picture"),
        (["search", "RUN", "dog", "--out", "x.unknown"], "cannot write the picture x.unknown"),
        (["render", "dog", "--out", "x.png", "--size", 4], "size must be"),
        (["render", "--out", "x.png"], "there is nothing to draw"),
        (["render", "dog", "--out", "x.png", "--grid", 1], "--grid must be from 2 to the size of the images"),
        (["render", "dog", "--out", "new", "--grid", 16], "--grid is for one picture"),
        (["render", "dog", "--out", "x.png", "--file", "none.txt"], "none.txt"),
        (["render", "dog", "--out", "x.nonsense"], "cannot write the picture x.nonsense"),
        (["render", "dog", "--out", "new", "--renderer", "unifont", "paragraph"], "is a folder"),
        (
            ["render", "dog " * 99, "--out", "x.png", "--renderer", "paragraph", "--overflow", "error"],
            "texts[0]",
        ),
        (["render", "dog", "--out", "x.png", "--renderer", "paragraph", "--fonts", "no.otf"], "no.otf"),
        (["train"], "clippo train needs a recipe: clippo_dictionary, dictionary, emoji"),
        (
            ["train", "cats"],
            "one of clippo_dictionary, dictionary, emoji, laion400m, laion400m_l16, miniature, own, "
            "yfcc100m; got 'cats'",
        ),
        (["train", "yfcc100m", "--sentence-share", "x"], "--sentence-share must be a number, got 'x'"),
        (["train", "own"], "clippo train own needs --data, such as folder:photos"),
        (["train", "own", "--data", "photos"], "photos is not a folder, and has none of the endings"),
        (["train", "emoji", "--data", "folder:none", "--out", "new"], "none is not a folder"),
        (
            ["train", "emoji", "--data", "photo:x"],
            "the kind of a source must be one of coco, dictionary, emoji,",
        ),
        (["train", "own", "--data", ".", "--out", "new"], ". holds no example with a text"),
        (
            ["data", "paint"],
            "clippo data must be followed by one of check, bench, convert, fetch; got 'paint'",
        ),
        (["data", "check", "tars:none.tar"], "there is no file none.tar"),
        (["data", "fetch", "photos"], "invalid choice 'photos' for argument 'name'"),
        (["data", "fetch", "texts", "--to", "."], ". is not an empty folder"),
        (
            ["data", "check", "dictionary:nowhere"],
            "there is no folder nowhere: `clippo data fetch dictionary`",
        ),
        (["data", "check", "emoji", "--sheet", "no/a.png"], "cannot write the picture no/a.png"),
        (["data", "check", "emoji", "--size", 20], "--size: size must be a multiple of patch_size"),
        (["data", "convert", "emoji", "--to", "model.py"], "cannot write into model.py"),
        (["data", "bench", "emoji", "--size", 20], "--size must be a multiple of 16, got 20"),
        (["data", "bench", "emoji", "--workers", 300], "--workers must be from 0 to 256, got 300"),
        (["data", "bench", "emoji", "--batch-size", 0], "--batch-size must be at least 1, got 0"),
        (["data", "convert", "emoji", "--to", "new", "--per-tar", 0], "per_tar must be at least 1, got 0"),
        (["evaluate", "RUN", "--data", "nowhere"], "nowhere is not a folder"),
        (["evaluate"], "clippo evaluate needs a model, such as runs/emoji"),
        (["evaluate", "RUN", "--suite", "none"], "suite must be one of claims, miniature, paper; got 'none'"),
        (["evaluate", "RUN", "--suite", "miniature", "--recipe", "own"], "--suite and --recipe do not go"),
        (["evaluate", "RUN", "--suite", "miniature", "--data", "emoji"], "--suite and --data do not go"),
        (["evaluate", "RUN", "RUN", "--out", "new"], "two models would be written to one folder, new/"),
        (["evaluate", "RUN", "--recipe", "own"], "the recipe own needs --data, such as folder:photos"),
        (
            ["train", "emoji", "--out", "new", "--loss", "hinge"],
            "--loss must be one of sigmoid, softmax; got 'hinge'",
        ),
        (["runs"], "there is no folder runs"),
        (["runs", "RUN", "."], ". is not the folder of a run, and holds none: runs have a config.json"),
        (["runs", "RUN", "--plot", "no/a.png"], "cannot write the picture no/a.png"),
        (["fonts", "unifont.otf", "nowhere.otf"], "nowhere.otf"),
        (["fonts", "./model.py"], "model.py is not a font"),
        (
            ["embed", "RUN", "--out", "new"],
            "clippo embed takes either data, such as folder:photos, or --texts",
        ),
        (["embed", "RUN", "emoji", "--texts", "model.py", "--out", "new"], "clippo embed takes either data"),
        (
            ["embed", "RUN", "--texts", "model.py", "--what", "images", "--out", "z.npy"],
            "--what images does not",
        ),
        (["embed", "RUN", "--texts", "none.txt", "--out", "z.npy"], "there is no file none.txt"),
        (["embed", "RUN", "--texts", ".", "--out", "z.npy"], "there is no file ."),
        (["embed", "RUN", "emoji", "--out", "new"], "must end in .npy or .parquet, got new"),
        (["embed", "RUN", "emoji", "--out", "no/z.npy"], "cannot write no/z.npy: there is no folder no"),
        (["embed", "RUN", "emoji", "--out", "z.npy", "--workers", -1], "--workers must be from 0 to 256"),
        (["embed", "RUN", "folder:none", "--out", "z.npy"], "none is not a folder"),
        (["embed", "runs/mistyped", "emoji", "--out", "z.npy"], "runs/mistyped: there is no such file or"),
        (["export", "runs/mistyped", "--out", "a.pt2"], "runs/mistyped: there is no such file or folder"),
        (["export", "RUN", "--out", "no/a.pt2"], "cannot write no/a.pt2: there is no folder no"),
        (["train", "emoji", "--out", "new", "--model.width", 97], "num_heads must divide width: 3 does not"),
        (["train", "emoji", "--out", "new", "--optimizer.beta2", 1], "optimizer.beta2 must be from 0 to"),
        (
            ["paint"],
            "the verb must be one of data, demo, doctor, embed, evaluate, export, finetune, fonts, index",
        ),
        (["evaluate", "nowhere"], "nowhere is not a run and has no evaluators of its own: name a --recipe"),
        (
            ["evaluate", "nowhere", "--recipe", "emoji"],
            "nowhere is not a run: name a folder to write to, --out",
        ),
        (["evaluate", "nowhere", "--recipe", "emoji", "--out", "new"], "cannot read a model from nowhere"),
        slow(["train", "emoji", "--out", "RUN"], "holds a run already"),
        pytest.param(
            ["train", "emoji", "--out", "RUN", "--resume", "--seed", 7],
            "another configuration",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["train", "emoji", "--out", "."], "is not empty and holds no run", marks=pytest.mark.slow
        ),
        pytest.param(
            ["train", "emoji", "--out", "model.py/run"],
            "cannot write into model.py/run",
            marks=pytest.mark.slow,
        ),
        (["train", "emoji", "--out", "new", "--steps", 0], "steps must be from 1 to 2147483647, got 0"),
        (["train", "emoji", "--out", "new", "--workers", 100_000], "workers must be at most 256"),
        (["train", "emoji", "--out", "new", "--data.languages", "en", "xx"], "languages must be among"),
        slow(["train", "emoji", "--out", "new", "--batch-size", 100_000], "batch_size must be at most"),
        slow(
            ["train", "emoji", "--out", "new", "--renderer", "unifont", "--model.image-size", 16],
            "model and renderer do not fit together: size must be larger than font_size",
        ),
        slow(
            ["train", "emoji", "--out", "new", "--model.patch-size", 8],
            "renderer must have the patch_size of the model, 8, not 16",
        ),
    ],
)
def test_what_a_user_can_put_right_is_one_line(cwd, finished, arguments, message, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    monkeypatch.chdir(cwd)
    with pytest.raises(SystemExit) as exit_info:
        main([str(finished if a == "RUN" else a) for a in arguments])
    assert exit_info.value.code == 2
    assert_one_line_of_complaint(capsys.readouterr().err, message)
    assert not (cwd / "new").exists()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_grid_of_patches_is_drawn(cwd):
    out = cwd / "grid.png"
    main(["render", "a dog", "--renderer", "aligned", "--size", "32", "--grid", "16", "--out", str(out)])
    picture = np.asarray(Image.open(out))[8:-8, 8:]
    image = AlignedRenderer(32)(["a dog"])[0]
    assert picture.shape[0] == 2 * 3 * 16  # two lines of patches
    np.testing.assert_array_equal(picture[1::3, 1:96:3], image)
    np.testing.assert_array_equal(picture[::48, 1:96:3], 255 - (255 - image[::16]) // 2)
    assert (picture[1:48:3, 0] > 127).all()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of"),
        (MemoryError("\x1b[2J"), r"out of memory: \x1b[2J"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9\nmore"), "can't allocate"),
    ],
)
def test_memory_that_runs_out_is_one_line(monkeypatch, capsys, error, message):
    def fail(arguments):
        raise error

    monkeypatch.setattr("clippo.cli.render.main", fail)
    with pytest.raises(SystemExit) as exit_info:
        main(["render"])
    assert exit_info.value.code == 2
    assert_one_line_of_complaint(capsys.readouterr().err, message)
    error.args = ("something else",)
    if not isinstance(error, MemoryError):
        with pytest.raises(RuntimeError, match="something else"):
            main(["render"])


def test_a_missing_font_names_its_package(cwd, monkeypatch, capsys):
    monkeypatch.setattr("clippo.renderer.fonts.SYSTEM_FONT_FOLDERS", ())
    monkeypatch.delenv("CLIPPO_FONT_PATH", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        main(["render", "dog", "--renderer", "paragraph", "--out", str(cwd / "x.png")])
    assert exit_info.value.code == 2
    assert_one_line_of_complaint(capsys.readouterr().err, "apt-get install fonts-unifont")
    assert not (cwd / "x.png").exists()


def test_a_missing_system_library_is_named(cwd):
    # A module of this name earlier on the path fails as skia does without the library.
    (cwd / "broken").mkdir()
    message = "libEGL.so.1: cannot open shared object file: No such file or directory"
    (cwd / "broken" / "skia.py").write_text(f"raise ImportError({message!r})")
    arguments = ("render", "dog", "--renderer", "paragraph", "--out", "x.png")
    run = clippo(*arguments, cwd=cwd, PYTHONPATH=str(cwd / "broken"))
    assert run.returncode == 2
    assert_one_line_of_complaint(run.stderr, "libEGL.so.1")


@pytest.fixture
def tiny_model(cwd) -> Path:
    sizes = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "patch_size": 16, "image_size": 48}
    Clippo(ClippoConfig(**sizes, embed_dim=32), UnifontRenderer(48)).save_pretrained(cwd / "tiny")
    return cwd / "tiny"


@pytest.mark.slow
def test_finetune_on_a_table_of_texts(cwd, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(cwd)
    rows = "".join(f"{('dull', 'fine')[n % 2]} film {n},{('bad', 'good')[n % 2]}\n" for n in range(80))
    (cwd / "reviews.csv").write_text("text,label\n" + rows)
    command = ["finetune", "tiny", "texts", "--data", "reviews.csv", "--out", "tuned"]
    command += ["--learning-rates", "3e-3"]
    main(command)
    said = capsys.readouterr().out
    assert "reviews, step 1 of 6: dev accuracy" in said
    assert "than the most frequent class (" in said
    assert "| reviews | accuracy |" in said
    assert [row["metric"] for row in read_results(cwd / "tuned/results.json").rows] == [
        "accuracy",
        "macro_f1",
    ]
    predicted = FineTuned.from_pretrained(cwd / "tuned/model").predict(["fine film 100"])
    assert predicted in (["bad"], ["good"])
    main([*command, "--seeds", "2"])
    said = capsys.readouterr().out
    assert "run 1 of 2, learning rate 0.003, seed 0 is there already" in said
    assert "of 2 runs" in said
    with pytest.raises(SystemExit):
        main([*command, "--freeze"])
    assert_one_line_of_complaint(capsys.readouterr().err, "run.freeze is False there and True here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "sentiment"], "cannot read a model from nowhere"),
        (["tiny", "sentimental"], "the task must be one of"),
        (["tiny", "glue"], "needs --root"),
        (["tiny", "glue", "--root", "nowhere"], "no task of GLUE is there"),
        (["tiny", "labels"], "the task labels needs data"),
        (["tiny", "labels", "--data", "nowhere"], "nowhere is not a folder"),
        (["tiny", "sentiment", "--seeds", "0", "--learning-rates", "1"], "seeds must be at least 1"),
        (["tiny", "sentiment", "--learning-rates", "0"], "learning_rate must be finite and above 0"),
        (["tiny", "sentiment", "--epochs", "0"], "epochs must be from 1"),
        (["tiny", "sentiment", "--root", "nowhere"], "there is no file nowhere"),
    ],
)
def test_finetune_says_what_is_wrong(cwd, tiny_model, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(cwd)
    with pytest.raises(SystemExit) as exit_info:
        main(["finetune", *arguments, "--out", "tuned"])
    assert exit_info.value.code == 2
    assert_one_line_of_complaint(capsys.readouterr().err, message)
    assert not (cwd / "tuned").exists()


@pytest.mark.slow
def test_sizes_that_do_not_fit_are_refused(cwd):
    run = clippo("train", "emoji", "--out", "new", "--model.num-heads", 5, cwd=cwd)
    assert run.returncode == 2
    assert "num_heads must divide width" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (cwd / "new").exists()


@pytest.mark.slow
def test_unknown_words_are_refused_by_name(cwd):
    run = clippo("train", "emoji", "--learning-rat", "1", cwd=cwd)
    assert run.returncode == 2
    assert "--learning-rat" in run.stderr
    assert "Traceback" not in run.stderr
