"""The commands of the guides, run as they stand, one page after another in a folder of its own.

A folder has what a reader would have: pictures with texts or classes, a table, an index and two runs.
A training takes four steps, a page is served for some seconds, and eight processes are two. Commands are left
out that need what is not at hand, or that other tests run: see LEFT_OUT.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clippo.cli import main
from clippo.data.convert import png
from clippo.data.emoji import EmojiConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    *(f"docs/{page}.md" for page in ("quickstart", "searching", "demo", "data", "finetuning", "scaling")),
]
LEFT_OUT = re.compile(
    r"^make |^pip |^curl |^sbatch |^\. |/data\b|/shared|\.npz|MODEL|shards/|parquet:|yfcc/|c4/"
    r"|--suite|data fetch|data check dictionary|train dictionary|finetune runs/emoji se"
)
FUNCTIONS = """
set -eu
clippo() {
    case "$*" in *"--out runs/photos"*) rm -rf runs/photos ;; esac
    case "$*" in *--dry-run*) command clippo "$@"; return ;; esac
    case "$1" in
    train) command clippo "$@" --steps 4 --warmup-steps 1 ;;
    demo) command timeout -s INT 25 clippo "${@/--open/--port=0}" || test $? = 124 ;;
    *) command clippo "$@" ;;
    esac
}
torchrun() { shift 2; command torchrun --nproc-per-node 2 "${@/8192/16}" --steps 4 --warmup-steps 1; }
set -x
"""


def commands_of(page: Path) -> str:
    """The commands of a page that are run."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").replace(".venv/bin/", "").splitlines()
    return "\n".join(line for line in lines if line and not LEFT_OUT.search(line))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The files of a reader."""
    folder = tmp_path_factory.mktemp("home")
    source = EmojiConfig(languages=("en",)).build("all", image_size=64)
    for kind in ("first", "second"):
        (folder / "photos" / kind).mkdir(parents=True)
    rows = ["path,caption"]
    for number in range(64):
        example = source[20 * number]
        text = example.texts[0].text
        name = f"photos/{'first' if number % 2 else 'second'}/{number}"
        (folder / f"{name}.png").write_bytes(png(example.image))
        (folder / f"{name}.txt").write_text(text)
        flower = folder / name.replace("photos", "flowers")
        flower.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"{name}.png", flower.with_suffix(".png"))
        rows.append(f'{name}.png,"{text}"')
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(folder / "photos/first/3.png", folder / "fish.jpg")
    (folder / "texts").mkdir()
    shutil.copy(ROOT / "docs/training.md", folder / "texts/a.md")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/sentences.txt", folder / "docs/sentences.txt")
    few = ["--steps", "4", "--warmup-steps", "1"]
    main(["train", "emoji", "--out", str(folder / "runs/emoji"), *few])
    data = f"folder:{folder / 'photos'}"
    main(["train", "own", "--data", data, "--out", str(folder / "runs/photos"), *few])
    for name in ("stamps.idx", "pictures.idx"):
        main(["index", str(folder / "photos"), "--model", "clippo-dictionary", "--out", str(folder / name)])
    return folder


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_guide_run_as_they_stand(page, home, tmp_path):
    commands = commands_of(ROOT / page)
    assert "clippo" in commands
    folder = tmp_path / "home"
    shutil.copytree(home, folder)
    (folder / "run.sh").write_text(FUNCTIONS + commands)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "run.sh"], cwd=folder, env=os.environ | {"PATH": path, "TQDM_DISABLE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
