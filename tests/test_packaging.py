"""The wheel and the source distribution are complete, and an installed wheel works."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from clippo import __version__

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = ROOT / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text())["project"]

# The packages by the folders of the repository that hold them.
PACKAGES = {
    "clippo": "clippo",
    "clippo_kernels": "clippo_kernels",
    "model": "clippo/model",
    "renderer": "clippo/renderer",
    "bench": "clippo/bench",
}
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, out: Path) -> Path:
    """Build "wheel" or "sdist" of a source tree with the setuptools of this environment."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks, links among them."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout knows which files belong to the project")
    listing = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return [name for name in listing.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory) -> Path:
    """The source distribution, built of the tracked files alone."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    return build("sdist", checkout, checkout / "dist")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built of the unpacked source distribution as pip and `python -m build` do."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, folder / "dist")


@pytest.mark.slow
def test_the_source_distribution_holds_every_file_and_link(sdist, tracked):
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive if not member.isdir()}
    made = {name for name in members if name.startswith("clippo_kernels.egg-info/")} | {
        "PKG-INFO",
        "setup.cfg",
    }
    assert {*members} - made == {*tracked}
    links = {name: member.linkname for name, member in members.items() if member.issym()}
    assert links == {link: f"../{folder}" for folder, link in PACKAGES.items() if folder != link}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(wheel, tracked):
    expected = {
        f"{PACKAGES[folder]}/{rest}"
        for folder, _, rest in (name.partition("/") for name in tracked)
        if folder in PACKAGES and not (ROOT / folder / rest).is_symlink()
    }
    found = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in found if ".dist-info/" not in name} == expected


def test_messages_name_extras_that_exist():
    extras = PROJECT["optional-dependencies"].keys()
    folders = [folder for folder in PACKAGES if (ROOT / folder).is_dir()]
    named = {
        (str(file.relative_to(ROOT)), extra)
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        for names in re.findall(r"clippo-kernels\[([\w,]+)\]", file.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert len(named) > 5
    assert [pair for pair in named if pair[1] not in extras] == []


def test_fragments_of_news_become_a_changelog(tmp_path):
    kinds = [kind["directory"] for kind in tomllib.loads(PYPROJECT.read_text())["tool"]["towncrier"]["type"]]
    fragments = [file.name for file in (ROOT / "changelog.d").iterdir() if file.name != "README.md"]
    name = re.compile(rf"(\d+|\+[\w-]+)\.({'|'.join(kinds)})\.md")
    assert [fragment for fragment in fragments if not name.fullmatch(fragment)] == []
    for source in (PYPROJECT, ROOT / "CHANGELOG.md"):
        shutil.copy(source, tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    (tmp_path / "changelog.d" / "+cats.fixed.md").write_text("Cats are found.")
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## 9.9.9 (")
    assert "### Fixed\n\n- Cats are found.\n" in done.stdout


def test_pages_name_the_version_of_the_package():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert cited == newest == __version__


STRANGER = "raise SystemExit('a module of the working directory was imported')\n"


def in_a_strangers_folder(code: str, folder: Path, packages: Path) -> str:
    """Output of Python code in a folder with modules of the names of the repository's folders."""
    folder.mkdir()
    for name in ("model", "renderer", "bench", "tests", "setup"):
        (folder / f"{name}.py").write_text(STRANGER)
    # "-c" puts the working directory at the head of the path, as `python -m` does; a console script does not.
    environment = os.environ | {"PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the packages of the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_beside_a_strangers_modules(installed, tmp_path):
    """No module needs a file of the checkout, or finds the stranger's model.py in place of clippo.model."""
    code = """
import importlib, pkgutil, sys, clippo, clippo_kernels
for package in (clippo, clippo_kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "clippo.__main__":  # importing it runs the program
            importlib.import_module(module.name)
print(clippo.__file__, "clippo.bench.suites.bench_render" in sys.modules)
"""
    assert in_a_strangers_folder(code, tmp_path / "work", installed) == (
        f"{installed / 'clippo' / '__init__.py'} True\n"
    )


@pytest.mark.slow
def test_the_program_of_the_wheel_searches_beside_a_strangers_modules(installed, tmp_path):
    code = "from clippo.cli import main; main({})"
    help_text = in_a_strangers_folder(code.format(["--help"]), tmp_path / "help", installed)
    assert "usage: clippo" in help_text
    search = code.format(["search", "clippo-dictionary", "dog"])
    assert "dog" in in_a_strangers_folder(search, tmp_path / "search", installed)


def run(*command: str | Path, folder: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_the_wheel_works_in_an_environment_of_its_own(versions, wheel, tmp_path):
    """With the newest versions of all but PyTorch, which is this environment's, or with the lowest of all."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    pip = [programs / "python", "-m", "pip"]
    if versions == "newest":
        pytorch = f"torch=={version('torch').partition('+')[0]}"
        run(*pip, "install", "--quiet", pytorch, wheel)
    else:
        run(*pip, "install", "--quiet", "uv")  # pip itself takes the newest versions only
        lowest = ["--python", programs / "python", "--resolution", "lowest-direct"]
        run(programs / "uv", "pip", "install", "--quiet", *lowest, wheel)
    assert "No broken requirements" in run(*pip, "check")
    work = tmp_path / "work"
    work.mkdir()
    (work / "model.py").write_text(STRANGER)
    for code in ("import clippo.renderer, clippo.model, clippo_kernels", "import clippo.bench"):
        run(programs / "python", "-c", code, folder=work)
    clippo = programs / "clippo"
    assert "usage: clippo" in run(clippo, "--help", folder=work)
    assert "dog" in run(clippo, "search", "clippo-dictionary", "dog", folder=work)
    assert "pip install 'clippo-kernels[web]'" in run(clippo, "doctor", folder=work)


@pytest.mark.long
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_dependency_has_a_wheel(python, wheel, tmp_path):
    """For each Python that is supported."""
    target = ["--python-version", python, "--only-binary=:all:", "--target", tmp_path / "packages"]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", *target, wheel)
