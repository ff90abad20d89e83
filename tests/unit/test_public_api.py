"""What the packages promise, written down: no name, argument, default or field changes unnoticed.

``public_api.txt`` is renewed by running this file: ``python tests/unit/test_public_api.py``. Its difference from the
last version is what users will meet, and belongs in the changelog.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ForwardRef

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("public_api.txt")
RENEW = "python tests/unit/test_public_api.py"

#: Methods with underscores that are called by writing something else.
_OPERATORS = {"__call__", "__and__", "__or__", "__add__", "__getitem__", "__len__", "__iter__", "__contains__"}


#: Packages whose names are for the rest of this one.
_INTERNAL = "icnn_rl.qp.kernel."


def _modules() -> list[str]:
    """Every package with an ``__all__``, and the modules that the pages import from."""
    import icnn_rl

    walked = pkgutil.walk_packages(icnn_rl.__path__, "icnn_rl.")
    names = {"icnn_rl", *(module.name for module in walked if module.ispkg and not module.name.startswith(_INTERNAL))}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        names |= set(re.findall(r"^from (icnn_rl[\w.]*) import ", page.read_text(), re.MULTILINE))
    return sorted(name for name in names if hasattr(importlib.import_module(name), "__all__"))


class _Plain(str):
    """Text that signatures show without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(value: object) -> _Plain:
    """An annotation or a default: classes and functions by their names, which no address or version is part of."""
    if isinstance(value, str | ForwardRef):
        return _Plain(value.__forward_arg__ if isinstance(value, ForwardRef) else value)
    if isinstance(value, types.ModuleType):
        return _Plain(value.__name__)
    named = isinstance(value, type | types.FunctionType | types.BuiltinFunctionType)
    return _Plain(value.__qualname__ if named and not isinstance(value, types.GenericAlias) else repr(value))


def _default(value: object) -> _Plain:
    return _Plain(repr(value)) if isinstance(value, str) else _shown(value)


def _signature(function: Callable[..., Any], *, method: bool = False) -> str:
    """A method is shown as it is called: without its first argument."""
    found, empty = inspect.signature(function), inspect.Parameter.empty
    parameters = [
        parameter.replace(
            annotation=empty if parameter.annotation is empty else _shown(parameter.annotation),
            default=empty if parameter.default is empty else _default(parameter.default),
        )
        for parameter in list(found.parameters.values())[int(method) :]
    ]
    returned = empty if found.return_annotation is empty else _shown(found.return_annotation)
    return str(found.replace(parameters=parameters, return_annotation=returned))


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("icnn_rl")


def _members(cls: type, exported: set[object]) -> Iterator[str]:
    """Fields, properties and methods of a class and of its bases that are not exported themselves."""
    told: set[str] = set()
    for base in cls.__mro__:
        if not _is_ours(base) or (base is not cls and base in exported):
            continue
        annotated = {} if dataclasses.is_dataclass(cls) else dict(vars(base).get("__annotations__", {}))
        for name, member in {**dict.fromkeys(annotated), **vars(base)}.items():
            if name in told or (name.startswith("_") and name not in _OPERATORS):
                continue
            told.add(name)
            if text := _member(name, member, annotated):
                yield text


def _member(name: str, member: object, annotated: dict[str, object]) -> str:
    if isinstance(member, property | cached_property):
        getter = member.fget if isinstance(member, property) else member.func
        return f"{name}: {_shown(inspect.signature(getter).return_annotation)}  (property)"
    if isinstance(member, classmethod | staticmethod):
        kind = type(member).__name__
        return f"{name}{_signature(member.__func__, method=kind == 'classmethod')}  ({kind})"
    if inspect.isfunction(member):
        return f"{name}{_signature(member, method=True)}"
    if isinstance(member, enum.Enum):
        return f"{name} = {member.value!r}"
    return f"{name}: {_shown(annotated[name])}" if name in annotated else ""


def _constructor(cls: type) -> str:
    """Where it is ours, or made by dataclass or NamedTuple: its arguments."""
    if dataclasses.is_dataclass(cls) or issubclass(cls, tuple):
        return _signature(cls).removesuffix(" -> None")
    place = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if not _is_ours(place) or getattr(cls, "_is_protocol", False) or issubclass(cls, enum.Enum):
        return ""
    return _signature(vars(place)["__init__"], method=True).removesuffix(" -> None")


def _entry(name: str, value: object, exported: set[object]) -> Iterator[str]:
    if value is Any:
        yield f"{name} = Any"
    elif inspect.isclass(value):
        bases = ", ".join(base.__qualname__ for base in value.__bases__ if base is not object)
        yield f"class {name}{_constructor(value)}" + (f"  of {bases}" if bases else "")
        yield from (f"    {line}" for line in _members(value, exported))
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name} = {value!r}" if isinstance(value, tuple) else f"{name}: {type(value).__name__}"


def text() -> str:
    """All of it, one name a line; a name that two packages export is described where it is named first."""
    modules = {name: importlib.import_module(name) for name in _modules()}
    values = {(name, one): getattr(module, one) for name, module in modules.items() for one in sorted(module.__all__)}
    exported = {value for value in values.values() if inspect.isclass(value)}
    homes: dict[int, str] = {}
    lines = [f"What icnn_rl promises. Renewed by: {RENEW}"]
    module = ""
    for (name, one), value in values.items():
        if name != module:
            module = name
            lines += ["", name]
        described = inspect.isclass(value) or inspect.isfunction(value)
        if described and id(value) in homes:
            lines.append(f"    {one} = {homes[id(value)]}")
            continue
        homes[id(value)] = f"{name}.{one}"
        lines += [f"    {line}" for line in _entry(one, value, exported)]
    return "\n".join(lines) + "\n"


def test_what_is_promised_is_written_down() -> None:
    for package in ("rich", "scipy", "sklearn", "yaml"):  # what some packages import at once
        pytest.importorskip(package)
    kept, found = FILE.read_text().splitlines(), text().splitlines()
    difference = "\n".join(difflib.unified_diff(kept, found, "public_api.txt", "the code", n=0, lineterm=""))
    assert not difference, f"What users can call has changed. If so it shall be: {RENEW}\n{difference}"


if __name__ == "__main__":
    FILE.write_text(text())
