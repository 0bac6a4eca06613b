"""Models that come with this package, each a folder of `Clippo.save_pretrained` under model/pretrained/."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_folder", "shipped_models"]

ROOT = Path(__file__).parents[1] / "pretrained"


def shipped_models() -> list[str]:
    """Names of the models that come with this package."""
    return sorted(path.name for path in ROOT.iterdir() if path.is_dir()) if ROOT.is_dir() else []


def shipped_folder(name: str | Path) -> Path | None:
    """The folder of a model that comes with this package; None if there is none of this name."""
    return ROOT / name if str(name) in shipped_models() else None
