"""Configurations: frozen dataclasses, some of them chosen by name, to and from JSON.

A *kind* of configuration is a dataclass that annotates `name: ClassVar[str]` and gives it no value. Its
subclasses are the choices of that kind, and each has a name:

    class LossConfig:  # the kind
        name: ClassVar[str]

    class SigmoidLossConfig(LossConfig):
        name: ClassVar[str] = "sigmoid"

A choice is found when its module lies in the package of its kind, so that a new one is a new file, or a new
class in a file that is there.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clippo.errors import printable

__all__ = ["choices", "flat", "from_dict", "kind_of", "to_dict"]

T = TypeVar("T")

# The JSON types that a field of each simple type accepts, and their names in messages.
JSON_TYPES = {
    int: (int, "an integer"), float: (int | float, "a number"), bool: (bool, "true or false"),
    str: (str, "a string"),
}  # fmt: skip


def is_kind(cls: Any) -> bool:
    """Say whether a class is a kind of configuration, whose subclasses are chosen by name."""
    return isinstance(cls, type) and "name" in inspect.get_annotations(cls) and "name" not in vars(cls)


def kind_of(cls: type) -> type | None:
    """The kind that a class is a choice of, None for other classes."""
    return next((base for base in cls.__mro__ if is_kind(base)), None)


@cache
def choices(kind: Any) -> dict[str, Any]:
    """The choices of a kind by name, in the order of their names."""
    package = sys.modules[sys.modules[kind.__module__].__package__ or kind.__module__]
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
    return {choice.name: choice for choice in sorted(named(kind), key=lambda choice: choice.name)}


def named(cls: Any) -> list[Any]:
    """The classes below one that have a name; others have what several choices share."""
    below = [descendant for child in cls.__subclasses__() for descendant in (child, *named(child))]
    return [choice for choice in below if "name" in vars(choice)]


def to_dict(config: Any) -> Any:
    """Turn a configuration into dictionaries and lists, fit for JSON; a choice's name is its "type"."""
    if is_dataclass(config):
        own = {field.name: to_dict(getattr(config, field.name)) for field in fields(config)}
        cls: Any = type(config)
        return own if kind_of(cls) is None else {"type": cls.name, **own}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return config


def from_dict(cls: type[T], content: Any, path: str = "") -> T:
    """Make a configuration of a class or kind from the output of `to_dict`.

    Raises:
        ValueError: the content is not that of such a configuration; the message names the field. Errors of
            the configuration itself are passed on.
    """
    at = path.rstrip(".") or "the configuration"
    if not isinstance(content, Mapping):
        raise ValueError(f"{at} must be an object, got {content!r}")
    content = dict(content)
    if is_kind(cls):
        name, known = content.pop("type", None), choices(cls)  # type: ignore[arg-type]
        if name not in known:
            raise ValueError(f"{path}type must be one of {', '.join(known)}, got {name!r}")
        cls = known[name]
    hints = get_type_hints(cls)
    own: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := [key for key in content if key not in own]:
        raise ValueError(f"{at} has no field {printable(str(unknown[0]))}")
    for name, field in own.items():
        if name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{path}{name} is missing")
    return cls(**{key: value_of(hints[key], value, f"{path}{key}.") for key, value in content.items()})


def value_of(hint: Any, value: Any, path: str) -> Any:
    """Convert a JSON value to the type of its field, and check simple types.

    Raises:
        ValueError: see `from_dict`.
    """
    if is_kind(hint) or is_dataclass(hint):
        return from_dict(hint, value, path)
    if get_origin(hint) is UnionType:  # of one type with None
        return None if value is None else value_of(get_args(hint)[0], value, path)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(value_of(get_args(hint)[0], item, f"{path}{i}.") for i, item in enumerate(value))
    if get_origin(hint) in (dict, Mapping) and isinstance(value, dict):
        return {key: value_of(get_args(hint)[1], item, f"{path}{key}.") for key, item in value.items()}
    if hint in JSON_TYPES:
        accepted, described = JSON_TYPES[hint]
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{path.rstrip('.')} must be {described}, got {value!r}")
    return value


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: `{"fonts": [{"file": "a"}]}` becomes `{"fonts.0.file": "a"}`."""
    out: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
