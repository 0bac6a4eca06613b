"""The pages: each Python block of README.md and docs runs alone, links lead somewhere, and the site builds.

A fence of "python needs NAME" marks a block that needs a file, a folder or a package that is not at hand,
and the page says where it comes from. Here files and folders have a stand-in, and without the package the
block is skipped. A fence without a language right below a block is what the block prints. A block that begins
with the path of a file is that file, and is run by test_extending.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clippo.finetuning.fine_tuned import About, FineTuned
from clippo.finetuning.objectives import Classification
from clippo.model import Clippo, create_model, save_big_vision

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    page
    for places in ("*.md", "docs/*.md", "examples/*.md", "model/pretrained/*/*.md")
    for page in sorted(ROOT.glob(places))
]
BLOCK = re.compile(
    r"^```python(?: needs (?P<needed>\S+))?\n(?P<code>.*?)^```\n(?:\n```\n(?P<printed>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)


def python_blocks():
    """The need of each block, its code, and its output where the page shows that."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if not re.match(r"# \S+\.py\n", block["code"]):
                line = text.count("\n", 0, block.start()) + 1
                yield pytest.param(*block.groups(), id=f"{page.relative_to(ROOT)}:{line}")


def published_weights(path: str) -> None:
    """A file of the names and the layout of a published one, smaller."""
    save_big_vision(create_model("clippo-ti16"), path)


def fine_tuned(path: str) -> None:
    about = About(task="texts", reads="texts", objective=Classification(classes=("good", "dull")))
    FineTuned(Clippo.from_pretrained("clippo-dictionary"), about).save_pretrained(path)


STAND_INS = {"clippo_b16_yfcc100m.npz": published_weights, "runs/reviews/model": fine_tuned}


@pytest.mark.slow
@pytest.mark.parametrize(("needed", "code", "printed"), list(python_blocks()))
def test_a_python_block_runs_alone(needed, code, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if needed in STAND_INS:
        STAND_INS[needed](needed)
    elif needed is not None:
        pytest.importorskip(needed)
    exec(compile(code, "block", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own pages
    if printed is not None:
        assert capsys.readouterr().out == printed


def test_every_fence_of_python_is_one_of_the_blocks_that_are_run():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```+ *py", text, re.MULTILINE)) == len(BLOCK.findall(text)), page


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    anchors: dict[str, int] = {}
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors[anchor] = anchors.get(anchor, -1) + 1
    return {f"{anchor}-{n}" if n else anchor for anchor, count in anchors.items() for n in range(count + 1)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    reference = (tmp_path / "site/reference/kernels.html").read_text(encoding="utf-8")
    assert 'id="clippo_kernels.contrastive_loss"' in reference
