"""The `clippo` program. A verb is a module of this package with a function `main(arguments)`."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from clippo import __version__
from clippo.errors import UserError, printable

__all__ = ["main"]

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)  # what PyTorch says


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; what a user can put right ends it with one line and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = show_warning
    try:
        if not given or given[0] in ("-h", "--help"):
            print(overview())
        elif given[0] == "--version":
            print(f"clippo {__version__}")
        elif given[0] in verbs():
            importlib.import_module(f"clippo.cli.{given[0]}").main(given[1:])
        else:
            raise UserError(f"the verb must be one of {', '.join(verbs())}; got {given[0]!r}")
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, ImportError, OSError) as error:
        if isinstance(error, ImportError) and not is_for_users(error):
            raise
        complain(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        reason = str(error).strip().partition("\n")[0]
        complain(f"out of memory{': ' * bool(reason)}{reason}")
        sys.exit(2)
    except KeyboardInterrupt as error:
        complain(str(error) or "interrupted")
        sys.exit(128 + getattr(error, "signal", 2))


def complain(message: str) -> None:
    print(f"clippo: {printable(message)}", file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning in one line, without the line of code that it came from."""
    complain(f"warning: {message}")


def is_for_users(error: ImportError) -> bool:
    """Say whether an import failed because of something that the user can install."""
    from clippo.renderer import SystemLibraryError

    return isinstance(error, SystemLibraryError)


def verbs() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def overview() -> str:
    """The verbs, and the first line of what each does, read without importing them."""
    lines = ["usage: clippo VERB ... (clippo VERB --help tells about one)", ""]
    for verb in verbs():
        source = Path(__path__[0], f"{verb}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {verb:<10}{summary}")
    return "\n".join(lines)
