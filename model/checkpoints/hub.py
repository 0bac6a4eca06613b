"""Repositories of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["download", "is_hub_name"]


def is_hub_name(source: str) -> bool:
    """Say whether a source is "owner/name", which is neither a path from here nor one with more parts."""
    parts = source.split("/")
    return len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts)


def download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """Fetch the files of a repository that are not in the cache yet, and return the folder that has them.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: there is no such repository, or the Hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{name} is no folder here, and a name on the Hugging Face Hub needs huggingface_hub: "
            "pip install 'clippo-kernels[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"{name} is no folder here, and cannot be fetched from the Hub: {reason}"
        ) from error
