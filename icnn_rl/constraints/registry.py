"""The kinds of constraints by name, for :func:`icnn_rl.constraints.parse_constraint`: a kind registers itself.

    @register_constraint("speed_limit")
    def speed_limit(max_speed: float) -> ActionConstraint: ...

Those of another distribution are found by their names if it names them as entry points of the group
"icnn_rl.constraints", in its pyproject.toml:

    [project.entry-points."icnn_rl.constraints"]
    speed_limit = "my_robot.limits:speed_limit"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple, TypeVar

from icnn_rl.constraints.base import ActionConstraint

__all__ = ["Kind", "find_constraint", "known_constraints", "register_constraint", "unregister_constraint"]

_GROUP = "icnn_rl.constraints"

Factory = TypeVar("Factory", bound=Callable[..., ActionConstraint])


class Kind(NamedTuple):
    """make: the factory, whose arguments are the keys of the text; readers: for arguments that have a way of their own
    to be written, a function of the name, for its error, and the value as YAML has it."""

    make: Callable[..., ActionConstraint]
    readers: Mapping[str, Callable[[str, Any], Any]]

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments, by name."""
        return inspect.signature(self.make).parameters


_KINDS: dict[str, Kind] = {}


def register_constraint(
    name: str, readers: Mapping[str, Callable[[str, Any], Any]] | None = None
) -> Callable[[Factory], Factory]:
    """Decorator for the function that makes a constraint: it can be named in texts and configs from then on.

    Args:
        name: the name.
        readers: see :class:`Kind`.

    Raises:
        ValueError: the name is no identifier, or there is another kind of that name.
    """
    if not name.isidentifier():
        raise ValueError(f"name: expected an identifier, such as 'speed_limit', got {name!r}.")

    def register(make: Factory) -> Factory:
        if name in _KINDS and _KINDS[name].make is not make:
            raise ValueError(f"name: there is a constraint {name!r} already: {_KINDS[name].make!r}.")
        _KINDS[name] = Kind(make, readers or {})
        return make

    return register


def unregister_constraint(name: str) -> None:
    """Forget a kind.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _KINDS:
        raise ValueError(f"name: there is no constraint {name!r}. Known: {', '.join(known_constraints())}.")
    del _KINDS[name]


def known_constraints() -> list[str]:
    """The names, in alphabetical order."""
    return sorted({*_KINDS, *entry_points(group=_GROUP).names})


def find_constraint(name: str) -> Kind | None:
    """The kind of that name; None: there is none."""
    if name not in _KINDS:
        for entry in entry_points(group=_GROUP, name=name):
            make = entry.load()
            if name not in _KINDS:  # the module has not registered it itself
                register_constraint(name)(make)
    return _KINDS.get(name)
