"""Arguments of the command line: parsed for a function, with one line for what a user can put right."""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import tyro

from clippo.errors import UserError


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
        with redirect_stderr(complaint):
            run = tyro.cli(parsed, prog=prog, description=description, args=arguments)
    except SystemExit as error:
        if error.code:
            raise UserError(one_line(complaint.getvalue())) from error
        sys.stderr.write(complaint.getvalue())
        raise
    run()


def one_line(box: str) -> str:
    """The text of a box that tyro has drawn, up to the rule above its hint to --help."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    end = next((i for i, line in enumerate(lines) if line.startswith("──")), len(lines))
    return re.sub(r"\s+", " ", " ".join(lines[:end])) if lines else box.strip()
