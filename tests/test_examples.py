"""The commands of examples/ and the cells of its notebooks run, and print what they show."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("examples/*.py"))
NOTEBOOKS = sorted(ROOT.glob("examples/notebooks/*.ipynb"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def blocks_of(script: Path) -> list[str]:
    """The indented blocks of a docstring: the command, and what it prints if the docstring shows it."""
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    found = re.findall(r"(?:^    .*\n?)+", docstring, flags=re.MULTILINE)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]


def execute(arguments: list[str], folder: Path) -> str:
    """Run Python in a folder, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(script: Path, folder: Path, *more: str) -> str:
    """Run the command of a docstring without its arguments in [...], and return what it prints."""
    command = re.sub(r"\[.*?\]|\\\n", "", blocks_of(script)[0]).replace("examples/", f"{script.parent}/")
    program, *arguments = command.split()
    start = {"python": [], "torchrun": ["-m", "torch.distributed.run", "--standalone"]}
    return execute([*start[program], *arguments, *more], folder)


def check_same(printed: str, shown: str, *, rel: float) -> None:
    """Words must be equal. Rounding errors, and measures on other machines, may differ a little."""
    lines = [[line for line in text.splitlines() if line.strip()] for text in (printed, shown)]
    assert [NUMBER.sub("#", line) for line in lines[0]] == [NUMBER.sub("#", line) for line in lines[1]]
    numbers, expected = (
        [float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (printed, shown)
    )
    assert numbers == pytest.approx(expected, rel=rel, abs=1e-4)


def test_the_table_lists_every_example():
    page = (ROOT / "examples" / "README.md").read_text()
    linked = re.findall(r"^\| \[.*?\]\((.*?)\)", page, flags=re.MULTILINE)
    files = [path.relative_to(ROOT / "examples").as_posix() for path in [*SCRIPTS, *NOTEBOOKS]]
    assert sorted(linked) == sorted(files)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if len(blocks_of(path)) == 2], ids=lambda path: path.stem
)
def test_an_example_prints_what_its_docstring_shows(script, tmp_path):
    check_same(run(script, tmp_path), blocks_of(script)[1], rel=0.1)
    for picture in tmp_path.glob("*.png"):
        assert len(Image.open(picture).getcolors()) > 2


@pytest.mark.slow
def test_the_program_trains_on_a_source_that_a_script_defines(tmp_path):
    run(SCRIPTS[[path.stem for path in SCRIPTS].index("custom_source")], tmp_path, "--steps", "80")
    folder = tmp_path / "runs" / "shapes"
    config = json.loads((folder / "config.json").read_text())["data"]
    assert config == {"type": "shapes", "held_out": 6}
    rows = json.loads((folder / "results.json").read_text())["rows"]
    value = {row["metric"]: row["value"] for row in rows}
    assert value["en/text_to_image/R@5"] > 2 * value["en/chance/R@5"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(notebook, tmp_path):
    """The cells run as one script, which needs no Jupyter."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n".join("".join(cell["source"]) for cell in cells))
    shown = "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "stream"
    )
    check_same(execute(["cells.py"], tmp_path), shown, rel=0.3)
