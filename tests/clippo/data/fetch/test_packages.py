import hashlib
import os
from pathlib import Path

import pytest

from clippo.data.fetch import packages as module
from clippo.data.fetch.packages import Package, described, fetched, members
from clippo.errors import UserError
from clippo.files import sha256


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs that are found before those of the machine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_package_is_fetched_once(programs, tmp_path):
    program(programs, "apt-get", 'echo "$@" >> ../calls; echo content > "$4_1.2_all.deb"')
    package = Package("apt", "some-data", "OFL-1.1")
    file = fetched(package, tmp_path / "packages")
    assert file == tmp_path / "packages" / "some-data_1.2_all.deb"
    assert fetched(package, tmp_path / "packages") == file
    calls = (tmp_path / "packages" / "calls").read_text().splitlines()
    assert calls == ["download -o APT::Sandbox::User=root some-data"]
    assert described(package, file) == {
        "registry": "apt",
        "package": "some-data",
        "file": "some-data_1.2_all.deb",
        "bytes": 8,
        "sha256": sha256(file),
        "licence": "OFL-1.1",
    }


def test_what_has_another_checksum_is_not_taken(programs, tmp_path):
    program(programs, "npm", "echo content > lobehub-some-data-1.2.tgz")
    package = Package("npm", "@lobehub/some-data", "MIT", "1.2", "0" * 64)
    with pytest.raises(UserError, match=r"lobehub-some-data-1.2.tgz must have the SHA-256 000.*, got 434728"):
        fetched(package, tmp_path / "packages")
    assert not list((tmp_path / "packages").iterdir())
    (tmp_path / "packages" / "lobehub-some-data-1.2.tgz").write_bytes(b"damaged since")
    with pytest.raises(UserError, match=r"must have the SHA-256"):
        fetched(package, tmp_path / "packages")


def test_what_cannot_be_fetched_is_named(programs, tmp_path, monkeypatch):
    program(programs, "apt-get", "echo 'E: Unable to locate package none' >&2; exit 100")
    with pytest.raises(
        UserError, match="cannot fetch none: E: Unable to locate package none; does `apt-get up"
    ):
        fetched(Package("apt", "none", "MIT"), tmp_path)
    program(programs, "npm", "exit 0")
    with pytest.raises(UserError, match="npm gave no file of the package none"):
        fetched(Package("npm", "none", "MIT", "1"), tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm, which fetches none, is not on this machine"):
        fetched(Package("npm", "none", "MIT", "1"), tmp_path)


@pytest.mark.parametrize(
    ("wheel", "file", "options"),
    [
        ("", "some-data-1.2.tar.gz", "--no-binary :all:"),
        (
            "cp311-cp311-linux_arm64",
            "some_data-1.2-cp311-cp311-linux_arm64.manylinux.whl",
            "--only-binary :all: --implementation cp --python-version 311 --abi cp311 --platform linux_arm64",
        ),
    ],
)
def test_the_source_package_or_one_wheel_of_pypi_is_fetched(tmp_path, monkeypatch, wheel, file, options):
    calls = []

    def run(command, folder, wanted):
        calls.append((" ".join(command), (folder / "requirements.txt").read_text()))
        (folder / file).write_bytes(b"content")

    monkeypatch.setattr(module, "run", run)
    package = Package("pypi", "some-data", "MIT", "1.2", hashlib.sha256(b"content").hexdigest(), wheel)
    assert fetched(package, tmp_path) == fetched(package, tmp_path) == tmp_path / file
    [(command, requirements)] = calls
    assert f"--no-deps {options} --require-hashes" in command
    assert requirements == f"some-data==1.2 --hash=sha256:{package.sha256}\n"


def test_the_files_of_packages_are_read(deb, tgz, whl):
    files = {"usr/share/a.txt": b"a", "usr/share/b.png": b"b"}
    for archive in (deb("data", files), tgz("data.tgz", files), whl("data.whl", files)):
        assert dict(members(archive, lambda path: True)) == files
        assert dict(members(archive, lambda path: path.endswith(".png"))) == {"usr/share/b.png": b"b"}
        assert next(members(archive, lambda path: True)) == ("usr/share/a.txt", b"a")


@pytest.mark.parametrize("name", ["data_1_all.deb", "data-1.tgz", "data-1.whl"])
def test_a_damaged_package_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing that can be read")
    with pytest.raises(UserError, match=f"{name} is not a whole package"):
        list(members(tmp_path / name, lambda path: True))
