"""Build source distributions; pyproject.toml describes the package."""

import os
from collections.abc import Sequence
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class LinkedSdist(sdist):
    """A source distribution in which clippo/model, clippo/renderer and clippo/bench are links, as in git.

    setuptools follows links: it would pack those folders twice, 9 MB more of compressed files.
    """

    def make_release_tree(self, base_dir: str, files: Sequence[str]) -> None:
        super().make_release_tree(
            base_dir, sorted({os.path.relpath(os.path.realpath(file)) for file in files})
        )
        for link in filter(Path.is_symlink, Path("clippo").iterdir()):
            (base_dir / link).symlink_to(link.readlink())


setup(cmdclass={"sdist": LinkedSdist})
