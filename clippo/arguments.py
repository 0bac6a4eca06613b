"""Arguments of the command line: parsed for a function, with one line for what a user can put right."""

from __future__ import annotations

import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import tyro

from clippo.errors import UserError

__all__ = ["call"]

COLOUR = re.compile("\x1b\\[[0-9;]*m")
INTERNAL_NAME = re.compile(r"Error parsing [\w.-]+: ")


def call(
    function: Callable[..., Any], arguments: list[str], *, prog: str, description: str | None = None
) -> None:
    """Call a function with arguments of the command line; its signature and docstring say what they are.

    Raises:
        UserError: the arguments do not fit. tyro would print a box of several lines.
        SystemExit: after --help.
    """

    @functools.wraps(function)
    def parsed(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), colours_as_asked():
            run = tyro.cli(parsed, prog=prog, description=description, args=arguments)
    except SystemExit as error:
        if error.code:
            raise UserError(one_line(complaint.getvalue())) from error
        sys.stderr.write(complaint.getvalue())
        raise
    run()


@contextmanager
def colours_as_asked() -> Iterator[None]:
    """Respect NO_COLOR (https://no-color.org), of which tyro knows nothing: it looks at TERM."""
    terminal = os.environ.get("TERM")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal
        else:
            os.environ.pop("TERM", None)


def one_line(box: str) -> str:
    """The message of a box that tyro has drawn, without its title and its hint to --help.

    A rule separates them, of Unicode or of ASCII characters, as the terminal has them.
    """
    parts: list[list[str]] = [[]]
    for line in COLOUR.sub("", box).splitlines():
        text = line.strip("│╭╮╰╯ ")
        if text.startswith(("─", "---")):
            parts.append([])
        elif text:
            parts[-1].append(text)
    if "╭" not in box:
        del parts[0]  # an ASCII box has its title above the first rule
    messages = [" ".join(part) for part in parts if part and not part[0].startswith("For full helptext")]
    # tyro names the field of its own making that holds the configuration.
    return INTERNAL_NAME.sub("", "; ".join(messages)) or box.strip()
