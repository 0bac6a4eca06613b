"""Sources as people write them: KIND:PATH?field=value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from clippo.data.base import SourceConfig
from clippo.data.folder import PICTURE_SUFFIXES
from clippo.data.mixture import MixtureConfig
from clippo.data.remote import is_remote
from clippo.errors import UserError
from clippo.model.configs import choices, from_dict

__all__ = ["data_config", "source_config"]

KINDS = {".csv": "table", ".tsv": "table", ".jsonl": "table", ".tar": "tars"} | dict.fromkeys(
    (".parquet", ".arrow", ".feather"), "parquet"
)


def data_config(specs: Sequence[str]) -> SourceConfig:
    """The configuration of one specification, or the mixture of several.

    Either none of them has a share, or each: `folder:photos=3`, `parquet:p/*.parquet?text=caption=1`.

    Raises:
        UserError: as of `source_config`, or some have shares and some have none.
    """
    parted = [parted_share(spec) for spec in specs]
    shares = [share for _, share in parted if share is not None]
    if shares and len(shares) < len(specs):
        raise UserError(f"either all or none of the sources may have shares, got {' '.join(specs)}")
    sources = tuple(source_config(spec) for spec, _ in parted)
    if len(sources) == 1:
        return sources[0]
    return MixtureConfig(sources=sources, shares=tuple(shares))


def parted_share(spec: str) -> tuple[str, float | None]:
    """A specification and the share behind it, "=3", if there is one."""
    start, equals, end = spec.rpartition("=")
    last_part = spec.rpartition("?")[2].rpartition("&")[2] if "?" in spec else ""
    is_field = last_part.count("=") == 1
    try:
        share = float(end)
    except ValueError:
        return spec, None
    if not equals or is_field or os.path.exists(spec.partition(":")[2] or spec):
        return spec, None
    return start, share


def source_config(spec: str) -> SourceConfig:
    """The configuration that a specification of a source describes.

        folder:photos    table:pairs.csv?image=path&text=en:caption,de:titel    tars:shards/{0000..0127}.tar
        parquet:p/*.parquet?held_out=0.01    emoji:    emoji:?languages=en,zh

    The kind of a path alone is guessed. Fields that are lists are separated by commas.

    Raises:
        UserError: there is no such kind or field, or it has no such values.
    """
    known = choices(SourceConfig)
    kind, colon, rest = spec.partition(":")
    if not colon and kind in known:
        rest = ""
    elif not colon or kind not in known:
        is_path = rest.startswith("//") or os.path.exists(spec.partition("?")[0])
        if colon and not is_path and kind.isidentifier():
            raise UserError(f"the kind of a source must be one of {', '.join(known)}; got {kind!r}")
        kind, rest = guessed(spec.partition("?")[0]), spec
    path, _, query = rest.partition("?")
    cls = known[kind]
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    content: dict[str, Any] = {"path": path} if "path" in names else {}
    if path and not content:
        raise UserError(f"{kind} takes no path; got {path!r}")
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in names or not equals:
            raise UserError(f"{kind} has the fields {', '.join(names)}; got {part!r}")
        content[name] = value_of(hints[name], value, name)
    try:
        return from_dict(SourceConfig, {"type": kind, **content})  # type: ignore[type-abstract]
    except ValueError as error:
        raise UserError(f"{spec}: {error}") from error


def guessed(path: str) -> str:
    """The kind of source of a path.

    Raises:
        UserError: it is not one that is known.
    """
    suffix = Path(path).suffix.lower()
    if suffix in KINDS:
        return KINDS[suffix]
    if is_remote(path):
        raise UserError(
            f"{path}: name the kind, folder:{path} or tars:{path}, which is not guessed of a store"
        )
    if not os.path.isdir(path):
        raise UserError(f"{path} is not a folder, and has none of the endings {', '.join(KINDS)}")
    inside = {Path(name).suffix.lower() for name in os.listdir(path)}
    if not inside & {*PICTURE_SUFFIXES}:
        for suffix in (".tar", ".parquet", ".arrow"):
            if suffix in inside:
                return KINDS[suffix]
    return "folder"


def value_of(hint: Any, value: str, name: str) -> Any:
    """A value of a field from its letters."""
    if hint in (int, float):
        try:
            return hint(value)
        except ValueError:
            raise UserError(f"{name} must be a number, got {value!r}") from None
    if hint is bool:
        if value not in ("true", "false"):
            raise UserError(f"{name} must be true or false, got {value!r}")
        return value == "true"
    return value if hint is str else tuple(value.split(","))
