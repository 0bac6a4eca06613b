"""The packages depend on one another in one direction, and live beside other people's packages."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import clippo.model
import clippo.renderer

ROOT = Path(__file__).resolve().parents[1]

# The folders of the packages; clippo holds links to the last three, under whose names they are imported.
FOLDERS = {
    "clippo_kernels": "clippo_kernels",
    "clippo": "clippo",
    "clippo.model": "model",
    "clippo.renderer": "renderer",
    "clippo.bench": "bench",
}

# The units of the project from the lowest to the highest, and which others each may import. "clippo" stands
# for the modules directly in clippo/, such as clippo.errors.
BASE = {"clippo_kernels", "clippo.renderer", "clippo", "clippo.model"}
ALLOWED: dict[str, set[str]] = {
    "clippo_kernels": set(),
    "clippo.renderer": set(),
    "clippo": {"clippo_kernels", "clippo.renderer"},
    "clippo.model": {"clippo_kernels", "clippo.renderer", "clippo"},
    "clippo.data": BASE,
    "clippo.evaluation": BASE | {"clippo.data"},
    "clippo.training": BASE | {"clippo.data", "clippo.evaluation"},
    "clippo.finetuning": BASE | {"clippo.data", "clippo.evaluation", "clippo.training"},
    "clippo.recipes": BASE | {"clippo.data", "clippo.evaluation", "clippo.training", "clippo.finetuning"},
}
ALLOWED["clippo.index"] = BASE | {"clippo.data"}
ALLOWED["clippo.demo"] = BASE | {"clippo.data", "clippo.index"}
ALLOWED["clippo.web"] = BASE | {"clippo.data", "clippo.index"}
ALLOWED["clippo.cli"] = {*ALLOWED}
ALLOWED["clippo.bench"] = {*ALLOWED}

Edge = tuple[str, str]


class Modules:
    """The modules of packages, and which of them import which.

    Attributes:
        root: the folder that holds those of the packages.
        files: the file of each module by its name; a package is the module of its __init__.py.
        imports: the modules that each module imports, wherever in its code.
    """

    def __init__(self, root: Path, folders: dict[str, str]) -> None:
        self.root = root
        self.files: dict[str, Path] = {}
        for package, folder in folders.items():
            for parent, _, names in os.walk(root / folder):  # does not follow links
                for path in (Path(parent, name) for name in names if name.endswith(".py")):
                    parts = path.relative_to(root / folder).with_suffix("").parts
                    name = ".".join([package, *parts]).removesuffix(".__init__")
                    self.files[name] = path
        self.trees = {n: ast.parse(path.read_text(encoding="utf-8")) for n, path in self.files.items()}
        self.imports = {name: self.imports_of(name) for name in self.files}

    def imports_of(self, name: str) -> set[str]:
        """The modules that a module imports.

        `from package import name` imports the package and, where `name` is a module of it, that module. In
        the package itself it is that module alone: nothing of the package's __init__.py is used, and a
        package has begun to be imported before any of its modules.
        """
        package = self.package(name)
        found = set()
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found |= {canonical(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = self.source_of(node, name)
                members = {f"{source}.{alias.name}" for alias in node.names}
                found |= members
                if not (members <= self.files.keys() and f"{package}.".startswith(f"{source}.")):
                    found.add(source)
        return found & self.files.keys() - {name}

    def circles(self) -> list[Edge]:
        """The imports that are part of a circle."""
        reach = {name: self.reachable(name) for name in self.files}
        return [(a, b) for a, b in self.edges() if a in reach[b]]

    def upward(self) -> list[Edge]:
        """The imports that ALLOWED does not allow."""
        return [
            (a, b)
            for a, b in self.edges()
            if (of := self.unit(a)) != (to := self.unit(b)) and to not in ALLOWED.get(of, ())
        ]

    def private(self) -> list[Edge]:
        """Modules, and the functions, classes and variables of them that begin with an underscore."""
        return [
            (name, found)
            for name in sorted(self.files)
            for found in top_level_names(self.trees[name])
            if found.startswith("_") and not found.endswith("__")
        ]

    def unlisted(self) -> list[Edge]:
        """Names that a module imports from another whose `__all__` does not list them.

        A package re-exports under the same rule. A module without `__all__` lists nothing.
        """
        return [
            (name, f"{source}.{member}")
            for name in sorted(self.files)
            for source, member in sorted(self.members_of(name))
            if f"{source}.{member}" not in self.files and member not in self.listed(source)
        ]

    def members_of(self, name: str) -> set[Edge]:
        """The names that a module takes from others: `from module import name` and `module.name`."""
        tree = self.trees[name]
        modules: dict[str, str] = {}  # by the local name of the module
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.asname or alias.name: canonical(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = self.source_of(node, name)
                for alias in node.names:
                    modules[alias.asname or alias.name] = f"{source}.{alias.name}"
                    found.add((source, alias.name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found.add((modules.get(ast.unparse(node.value), ""), node.attr))
        return {(a, b) for a, b in found if a in self.files and not b.startswith("__")}

    def listed(self, name: str) -> set[str]:
        for node in self.trees[name].body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        return set()

    def source_of(self, node: ast.ImportFrom, name: str) -> str:
        """The module named after `from`, whose dots are relative to the package of the importing module."""
        parts = self.package(name).split(".")
        parents = parts[: len(parts) - node.level + 1] if node.level else []
        return canonical(".".join([*parents, *filter(None, [node.module])]))

    def package(self, name: str) -> str:
        return name if self.files[name].name == "__init__.py" else name.rpartition(".")[0]

    def edges(self) -> Iterator[Edge]:
        return ((a, b) for a in sorted(self.files) for b in sorted(self.imports[a]))

    def reachable(self, name: str) -> set[str]:
        found: set[str] = set()
        ahead = [name]
        while ahead:
            new = self.imports[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    def unit(self, name: str) -> str:
        """The package that a module is in; in clippo, the sub-package, or "clippo" where it is in none."""
        first, *rest = name.split(".")
        if first != "clippo" or not rest:
            return first
        if rest[0] == "__main__":
            return "clippo.cli"  # because it runs the program
        child = f"clippo.{rest[0]}"
        is_package = child in self.files and self.files[child].name == "__init__.py"
        return child if child in ALLOWED or is_package else "clippo"

    def show(self, edges: Iterable[Edge]) -> str:
        """One line for each: the files of modules, and other names as they are."""
        names = {name: str(path.relative_to(self.root)) for name, path in self.files.items()}
        return "\n".join(f"{names[a]} -> {names.get(b, b)}" for a, b in edges)


def canonical(name: str) -> str:
    """The name under clippo of a module that is imported by the name of its folder, as in `import model`."""
    return f"clippo.{name}" if f"clippo.{name.partition('.')[0]}" in FOLDERS else name


def top_level_names(module: ast.Module) -> Iterator[str]:
    """The functions, classes and variables that a module defines, also those below an `if` or a `try`."""
    ahead: list[ast.AST] = [module]
    while ahead:
        node = ahead.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.comprehension | ast.Lambda):  # they have variables of their own
            ahead = [*ast.iter_child_nodes(node), *ahead]


@pytest.fixture(scope="module")
def project() -> Modules:
    return Modules(ROOT, FOLDERS)


def test_no_circle(project):
    circles = project.circles()
    assert not circles, f"these imports are part of circles:\n{project.show(circles)}"


def test_no_arrow_up(project):
    unknown = {project.unit(name) for name in project.files} - ALLOWED.keys()
    assert not unknown, f"ALLOWED does not say what these may import: {', '.join(sorted(unknown))}"
    upward = project.upward()
    assert not upward, f"these imports run against ALLOWED:\n{project.show(upward)}"


def test_no_underscores(project):
    """The `__all__` of a module says what is public. Files, attributes and methods may have underscores."""
    private = project.private()
    assert not private, f"these names begin with an underscore:\n{project.show(private)}"


def test_modules_import_what_others_list(project):
    """`__all__` of a module names what other modules may use; what it leaves out is the module's own."""
    unlisted = project.unlisted()
    assert not unlisted, f"the __all__ of the module does not list these names:\n{project.show(unlisted)}"
    unknown = [
        (name, found)
        for name, path in project.files.items()
        for found in project.listed(name) - {*top_level_names(project.trees[name])}
        if path.name != "__init__.py"
    ]
    assert not unknown, f"these modules list names that they do not define:\n{project.show(unknown)}"


def test_what_the_page_names_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)`(?:, `(\w+)`)?", page)
    assert len(named) > 20
    for file, name in named:
        assert not name or re.search(rf"^(class|def) {name}\b", (ROOT / file).read_text(), re.MULTILINE), name


def made_up(root: Path, files: dict[str, str]) -> Modules:
    """A project of these files, with the link to model/ that the real one has."""
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (root / "clippo" / "model").symlink_to(Path("..", "model"))
    return Modules(root, {"clippo": "clippo", "clippo.model": "model"})


def test_imports_are_found_wherever_they_are(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "",
            "clippo/errors.py": "import json, torch.nn",
            "clippo/data/__init__.py": "from .emoji import Emoji",
            "clippo/data/emoji.py": "def load():\n    from ...nothing import x\n    from .. import errors",
            "clippo/data/tar.py": "import clippo.errors as e, model.tower\nfrom clippo.data import emoji",
            "clippo/evaluation/__init__.py": "from clippo import data\nfrom clippo.data import emoji",
            "model/__init__.py": "from .tower import Tower",
            "model/tower.py": "class A:\n    try:\n        from clippo.errors import E\n    finally: ...",
        },
    )
    assert project.imports == {
        "clippo": set(),
        "clippo.errors": set(),
        "clippo.data": {"clippo.data.emoji"},
        "clippo.data.emoji": {"clippo.errors"},
        "clippo.data.tar": {"clippo.errors", "clippo.model.tower", "clippo.data.emoji"},
        "clippo.evaluation": {"clippo.data", "clippo.data.emoji"},
        "clippo.model": {"clippo.model.tower"},
        "clippo.model.tower": {"clippo.errors"},
    }
    assert project.circles() == []
    assert project.upward() == []


def test_a_circle_that_only_a_type_checker_sees_is_found(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "",
            "model/__init__.py": "from .tower import Tower",
            "model/tower.py": "if TYPE_CHECKING:\n    from .save import Saved\nimport clippo.model.math",
            "model/save.py": "def load():\n    from model.tower import Tower",
            "model/math.py": "",
        },
    )
    assert project.show(project.circles()) == (
        "model/save.py -> model/tower.py\nmodel/tower.py -> model/save.py"
    )


def test_a_package_is_a_module_of_a_circle(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "",
            "model/__init__.py": "from .tower import Tower",
            "model/tower.py": "from clippo.model import load",
        },
    )
    assert project.circles() == [
        ("clippo.model", "clippo.model.tower"),
        ("clippo.model.tower", "clippo.model"),
    ]


def test_arrows_up_are_found(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "",
            "clippo/__main__.py": "from clippo.cli import main",
            "clippo/errors.py": "from clippo.data import emoji",
            "clippo/cli.py": "import clippo.training.loop",
            "clippo/data/__init__.py": "",
            "clippo/data/emoji.py": "from clippo.training import loop\nimport clippo.model",
            "clippo/training/__init__.py": "",
            "clippo/training/loop.py": "from ..data.emoji import Emoji\nimport clippo.cli",
            "model/__init__.py": "import clippo.data.emoji",
        },
    )
    assert project.show(project.upward()).splitlines() == [
        "clippo/data/emoji.py -> clippo/training/__init__.py",
        "clippo/data/emoji.py -> clippo/training/loop.py",
        "clippo/errors.py -> clippo/data/__init__.py",
        "clippo/errors.py -> clippo/data/emoji.py",
        "model/__init__.py -> clippo/data/emoji.py",
        "clippo/training/loop.py -> clippo/cli.py",
    ]


def test_underscores_are_found(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "from . import _checks\n__all__ = []\nsquares = [_x**2 for _x in range(3)]",
            "clippo/_checks.py": "_a, (b, _c) = 1, (2, 3)\n_d: int = 4\ndef e(_f):\n    _g = _f",
            "model/__init__.py": "try:\n    pass\nexcept OSError:\n    def _f(): ...\n"
            "class A:\n    _b = 1\n    def _c(self): ...\nclass _D: ...\nasync def _e(): ...\nA._z = {}",
        },
    )
    assert project.show(project.private()).splitlines() == [
        "clippo/_checks.py -> _a",
        "clippo/_checks.py -> _c",
        "clippo/_checks.py -> _d",
        "model/__init__.py -> _f",
        "model/__init__.py -> _D",
        "model/__init__.py -> _e",
    ]


def test_names_that_a_module_keeps_to_itself_are_found(tmp_path):
    project = made_up(
        tmp_path,
        {
            "clippo/__init__.py": "",
            "clippo/files.py": '__all__ = ["read"]\ndef read(): ...\ndef lock(): ...',
            "clippo/data.py": "from . import files\nfrom .files import read, lock\nfiles.lock, files.read",
            "model/__init__.py": "",
            "model/tower.py": "import clippo.files as f, clippo.data\n[f.lock, f.read.lock, clippo.data.x]",
        },
    )
    assert project.show(project.unlisted()).splitlines() == [
        "clippo/data.py -> clippo.files.lock",
        "model/tower.py -> clippo.data.x",
        "model/tower.py -> clippo.files.lock",
    ]


def python(*arguments: str, folder: Path, path: Path) -> str:
    """Output of a fresh interpreter that has a folder at the head of its path."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_renderer_imports_neither_torch_nor_skia(tmp_path):
    """Workers that render stay small, and a Skia that cannot be loaded is reported with what it lacks."""
    code = "import sys, clippo.renderer; print({'torch', 'triton', 'skia'} & {*sys.modules})"
    assert python("-c", code, folder=tmp_path, path=ROOT) == "set()"


@pytest.mark.slow
def test_the_model_imports_little_beyond_torch(tmp_path):
    """Its first use is not a second later for a package that few calls need, such as matplotlib or tyro."""
    code = """
import sys, torch
before = {*sys.modules}
import clippo.model
print(sorted({name.partition(".")[0] for name in {*sys.modules} - before} - sys.stdlib_module_names))
"""
    allowed = ["PIL", "clippo", "clippo_kernels", "safetensors"]
    assert python("-c", code, folder=tmp_path, path=ROOT) == str(allowed)


@pytest.mark.parametrize("name", ["model", "renderer"])
def test_a_folder_of_the_checkout_is_the_package(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    folder, package = __import__(name), getattr(clippo, name)
    assert folder is not package
    for public in package.__all__:
        assert getattr(folder, public) is getattr(package, public)


@pytest.mark.slow
def test_a_project_with_folders_of_the_same_names_works_beside_the_packages(tmp_path):
    project, installed = tmp_path / "project", tmp_path / "site-packages"
    installed.mkdir()
    for package in ("clippo", "clippo_kernels"):  # all that an installation adds to the path
        (installed / package).symlink_to(ROOT / package)
    for file, source in {
        "model/net.py": "class Net: ...",
        "renderer/scene.py": "SCENE = 1",
        "main.py": "from model.net import Net\nfrom renderer.scene import SCENE\n"
        "import clippo.model, clippo.renderer, clippo_kernels\n"
        "print(Net.__module__, SCENE, clippo.model.Clippo.__module__, clippo.renderer.__name__)",
    }.items():
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text(source)
    assert (
        python("main.py", folder=project, path=installed) == "model.net 1 clippo.model.clippo clippo.renderer"
    )
