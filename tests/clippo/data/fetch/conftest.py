"""Small packages of the true layout."""

import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.clippo.data.conftest import write_tar

CONTROL = (
    "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: none <none@example.org>\nDescription: none\n"
)


def write_deb(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / f"{name}-files"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(CONTROL.format(name=name))
    file = folder / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", root, file], check=True, capture_output=True)
    return file


@pytest.fixture
def deb(tmp_path):
    return lambda name, files: write_deb(tmp_path, name, files)


@pytest.fixture
def tgz(tmp_path):
    return lambda name, files: write_tar(tmp_path / name, files)


@pytest.fixture
def whl(tmp_path):
    def write(name: str, files: dict[str, bytes]) -> Path:
        with ZipFile(tmp_path / name, "w") as wheel:
            for path, content in files.items():
                wheel.writestr(path, content)
        return tmp_path / name

    return write
