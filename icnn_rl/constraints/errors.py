"""What constraints raise and warn of."""

from __future__ import annotations

__all__ = ["ConstraintWarning", "EmptySetError"]


class EmptySetError(ValueError):
    """In some state no action satisfies the constraint."""


class ConstraintWarning(UserWarning):
    """Something about a constraint that its user should know; promote it with ``warnings.simplefilter("error",
    ConstraintWarning)``."""
