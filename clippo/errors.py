"""Errors that a user can put right."""

__all__ = ["DamagedCheckpointError", "UserError", "first_line", "printable"]

LONGEST = 2000  # characters of a message; one with the fonts of two renderers has about 800


class UserError(ValueError):
    """One line that says what is wrong and what to do; the program prints it and exits with 2."""


class DamagedCheckpointError(UserError):
    """A checkpoint that cannot be read."""


def first_line(error: BaseException) -> str:
    """The first line of a message; those of PyTorch may go on with a trace."""
    return str(error).strip().partition("\n")[0]


def printable(text: str) -> str:
    """Text that may come from a file, without what would steer a terminal, and not too long to read."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
