"""Say what this installation can do, and how to get what it lacks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import requires

from clippo import __version__
from clippo.arguments import call
from clippo.results import cpu_name, version_of

__all__ = ["main"]

DISTRIBUTION = "clippo-kernels"
OF_DEVELOPERS = ("bench", "dev", "docs")  # extras of those who change the program


def doctor() -> None:
    """Say what this installation can do, and how to get what it lacks.

        clippo doctor

    Lists versions, devices, the backend of the ops, models, fonts and extras. A line of what is missing ends
    with the command that gets it. Reports of a bug should have this.
    """
    for name, value in (*program(), *devices(), *models(), *fonts(), *extras()):
        print(f"{name:<12}{value}")


def program() -> Iterator[tuple[str, str]]:
    """Versions of the program and of the packages that it needs."""
    yield "clippo", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages", ", ".join(f"{name} {version_of(name)}" for name in packages_by_extra()[""])


def devices() -> Iterator[tuple[str, str]]:
    """The devices that PyTorch sees, and what runs the ops there."""
    import torch

    from clippo_kernels.dispatch import BACKEND_VARIABLE, choose_backend

    yield "processor", f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch"
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        yield f"GPU {number}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backend = choose_backend("the ops", device, True, None)
    except (RuntimeError, ValueError) as error:
        yield "ops", f"none: {error}"
        return
    chosen = f", as {BACKEND_VARIABLE} asks" if os.environ.get(BACKEND_VARIABLE) else ""
    yield "ops", f"{'Triton kernels' if backend == 'triton' else 'plain PyTorch'} on {device.type}{chosen}"


def models() -> Iterator[tuple[str, str]]:
    """The models that come with the package."""
    from clippo.model.checkpoints.shipped import shipped_models

    yield "models", ", ".join(shipped_models())


def fonts() -> Iterator[tuple[str, str]]:
    """The fonts of the shaping renderers that are here or missing; Unifont's glyphs come with the package."""
    from clippo.renderer import FontNotFoundError, SystemLibraryError, import_skia
    from clippo.renderer.fonts import PACKAGES, find_named_font

    try:
        import_skia()
    except SystemLibraryError as error:
        yield "Skia", f"missing: {error}"
    found, missing = [], []
    for name, package in PACKAGES.items():
        try:
            find_named_font(name)
            found.append(name)
        except FontNotFoundError:
            missing.append(package)
    yield "fonts", ", ".join(found) or "none of the usual ones"
    if missing:
        yield "", f"missing: apt-get install {' '.join(dict.fromkeys(missing))}"


def extras() -> Iterator[tuple[str, str]]:
    """The extras whose packages are all here, and the others."""
    of_extra = {extra: own for extra, own in packages_by_extra().items() if extra not in ("", *OF_DEVELOPERS)}
    whole = [extra for extra, names in of_extra.items() if all(map(version_of, names))]
    yield "extras", ", ".join(whole) or "none"
    for extra in sorted(of_extra.keys() - set(whole)):
        lacking = [name for name in of_extra[extra] if version_of(name) is None]
        yield "", f"missing: {', '.join(lacking)}; pip install '{DISTRIBUTION}[{extra}]'"


def packages_by_extra() -> dict[str, list[str]]:
    """Names of the packages that each extra needs, and under "" of those that the program always needs."""
    found: dict[str, list[str]] = {}
    for line in requires(DISTRIBUTION) or ():
        name, _, condition = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        own = found.setdefault(extra[1] if extra else "", [])
        own.append(re.split(r"[\s<>=!~(\[]", name.strip(), maxsplit=1)[0])
    return found


def main(arguments: list[str]) -> None:
    call(doctor, arguments, prog="clippo doctor")
