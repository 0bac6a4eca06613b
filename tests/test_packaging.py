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


def run(*command: str | Path, folder: Path, path: Path | str = "") -> str:
    """Output of a program in a folder, with `path` in place of the PYTHONPATH of the tests."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Build "wheel" or "sdist" of a source tree with the setuptools of this environment."""
    out.mkdir()
    output = run(sys.executable, "-c", BUILD, f"build_{kind}", out, folder=source)
    return out / output.splitlines()[-1]


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
    made = re.compile(r"PKG-INFO|setup\.cfg|clippo_kernels\.egg-info/.*")
    assert {name for name in members if not made.fullmatch(name)} == {*tracked}
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
    draft = run(*command, folder=tmp_path)
    assert draft.startswith("## 9.9.9 (")
    assert "### Fixed\n\n- Cats are found.\n" in draft


def test_pages_name_the_version_of_the_package():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert cited == newest == __version__


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the packages of the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.fixture
def strangers(tmp_path) -> Path:
    """A folder with modules that have the names of the repository's folders, and cannot be imported."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    for name in ("model", "renderer", "bench", "tests", "setup"):
        (folder / f"{name}.py").write_text("raise SystemExit('a module of the stranger was imported')\n")
    return folder


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_beside_a_strangers_modules(installed, strangers):
    """No module needs a file of the checkout, or finds the stranger's model.py in place of clippo.model."""
    code = """
import importlib, pkgutil, sys, clippo, clippo_kernels
for package in (clippo, clippo_kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "clippo.__main__":  # importing it runs the program
            importlib.import_module(module.name)
print(clippo.__file__, "clippo.bench.suites.bench_render" in sys.modules)
"""
    output = run(sys.executable, "-c", code, folder=strangers, path=installed)
    assert output == f"{installed / 'clippo' / '__init__.py'} True\n"


def check_program(*command: str | Path, folder: Path, path: Path | str = "") -> None:
    """Check that the program lists its verbs, and finds dogs with the model and the pictures of the wheel."""
    assert "usage: clippo" in run(*command, "--help", folder=folder, path=path)
    found = run(*command, "search", "clippo-dictionary", "dog", folder=folder, path=path)
    assert "emoji/1f415" in found


@pytest.mark.slow
def test_the_program_of_the_wheel_runs_beside_a_strangers_modules(installed, strangers):
    check_program(sys.executable, "-m", "clippo", folder=strangers, path=installed)


@pytest.mark.long
@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_the_wheel_works_in_an_environment_of_its_own(versions, wheel, tmp_path, strangers):
    """With the newest versions of all but PyTorch, which is this environment's, or with the lowest of all."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / "bin"
    pip = [programs / "python", "-m", "pip"]
    if versions == "newest":
        pytorch = f"torch=={version('torch').partition('+')[0]}"
        run(*pip, "install", "--quiet", pytorch, wheel, folder=tmp_path)
    else:
        run(*pip, "install", "--quiet", "uv", folder=tmp_path)  # pip itself takes the newest versions only
        lowest = ["--python", programs / "python", "--resolution", "lowest-direct"]
        run(programs / "uv", "pip", "install", "--quiet", *lowest, wheel, folder=tmp_path)
    assert "No broken requirements" in run(*pip, "check", folder=tmp_path)
    imports = "import clippo.bench, clippo.model, clippo.renderer, clippo_kernels"
    run(programs / "python", "-c", imports, folder=strangers)
    check_program(programs / "clippo", folder=strangers)
    assert "pip install 'clippo-kernels[web]'" in run(programs / "clippo", "doctor", folder=strangers)


@pytest.mark.long
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_dependency_has_a_wheel(python, wheel, tmp_path):
    """For each Python that is supported; conditions of dependencies are read for the Python that runs."""
    target = ["--python-version", python, "--only-binary=:all:", "--target", tmp_path / "packages"]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", *target, wheel, folder=tmp_path)
