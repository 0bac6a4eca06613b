"""Errors that a user can put right."""

__all__ = ["UserError"]


class UserError(ValueError):
    """One line that says what is wrong and what to do; the program prints it and exits with 2."""
