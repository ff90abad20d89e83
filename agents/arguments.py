"""Constructors that name the argument they do not know, and the one that was probably meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec

from icnn_rl.spelling import did_you_mean, nearest

__all__ = ["arguments", "check_names", "checks_names"]

P = ParamSpec("P")


def arguments(classes: Iterable[type]) -> dict[str, inspect.Parameter]:
    """The arguments of the first class's constructor and, where it hands on ``**kwargs``, of the next ones."""
    found: dict[str, inspect.Parameter] = {}
    for cls in classes:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def check_names(where: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """``elsewhere``: arguments of something else, and what to do about them.

    Raises:
        TypeError: a name is not known.
    """
    known = set(known)
    for name in given:
        if name in known:
            continue
        hint = f" {elsewhere.get(name) or 'Known: ' + ', '.join(sorted(known - {'self'})) + '.'}"
        if nearest(name, known):
            hint = did_you_mean(name, known)
        elif name not in elsewhere and (near := nearest(name, elsewhere)):
            hint = f"{did_you_mean(name, near)} {elsewhere[near[0]]}"
        raise TypeError(f"{name}: not an argument of {where}.{hint}")


def checks_names(
    elsewhere: Callable[[type], Mapping[str, str]] = lambda cls: {},
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorates a constructor: its keywords are checked by :func:`check_names` before it runs."""

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(init)
        def checked(*args: P.args, **kwargs: P.kwargs) -> None:
            mro = type(args[0]).__mro__
            owner = next(i for i, cls in enumerate(mro) if vars(cls).get("__init__") is checked)
            check_names(mro[0].__name__, kwargs, arguments(mro[owner:]), elsewhere(mro[0]))
            init(*args, **kwargs)

        return checked

    return decorate
