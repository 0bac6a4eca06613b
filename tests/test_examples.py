"""The scripts of examples/ run by the commands of their docstrings, and print what these say."""

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
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def blocks_of(script: Path) -> list[str]:
    """The indented blocks of a docstring: the command, and what it prints if the docstring shows it."""
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    found = re.findall(r"(?:^    .*\n?)+", docstring, flags=re.MULTILINE)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]


def run(script: Path, folder: Path, *more: str) -> str:
    """Run the command of a docstring without its arguments in [...], and return what it prints."""
    command = re.sub(r"\[.*?\]|\\\n", "", blocks_of(script)[0]).replace("examples/", f"{script.parent}/")
    program, *arguments = command.split()
    start = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone"],
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [*start[program], *arguments, *more],
        cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_table_lists_every_example():
    page = (ROOT / "examples" / "README.md").read_text()
    linked = re.findall(r"^\| \[.*?\]\((.*?)\)", page, flags=re.MULTILINE)
    notebooks = (ROOT / "examples").glob("notebooks/*.ipynb")
    assert sorted(linked) == sorted(
        path.relative_to(ROOT / "examples").as_posix() for path in [*SCRIPTS, *notebooks]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if len(blocks_of(path)) == 2], ids=lambda path: path.stem
)
def test_an_example_prints_what_its_docstring_shows(script, tmp_path):
    printed, shown = run(script, tmp_path), blocks_of(script)[1]
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    numbers, expected = (
        [float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (printed, shown)
    )
    # Errors of rounding, and recalls with other versions of fonts and names, differ a little.
    assert numbers == pytest.approx(expected, rel=0.1, abs=1e-4)
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
