"""Constraints as text or YAML, for command lines and configs.

power_limit:velocity_index=8:11,max_power=20 & rate_limit:max_change=0.1

- power_limit: {velocity_index: "8:11", max_power: 20}
- rate_limit: {max_change: 0.1}

They are data; functions, and whole constraints, are named by the module that they are in:

control_barrier:barrier=my_robot:table,alpha=[2,2] & my_robot:reach
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.registry import Kind, find_constraint, known_constraints
from icnn_rl.spelling import did_you_mean

__all__ = ["parse_constraint"]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_SLICE = re.compile(r"-?\d*:-?\d*")
_OBJECT = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def parse_constraint(spec: str | Mapping[str, Any] | Iterable[Any]) -> ActionConstraint:
    """The constraint that a text, a mapping or a list of them describes.

    Args:
        spec: NAME:key=value[,key=value...] or MODULE:OBJECT, several joined by "&"; or {NAME: {key: value}}; or a list
            of either. All of them hold. Values are read as YAML: numbers, 3e-4 and inf among them, lists, true and
            false; 8:11 is a slice of the observation (in a YAML file in quotes: without, it is the number 491, which is
            refused). What needs one argument takes it without its name in a mapping, {rate_limit: 0.5}. The key
            ``reading`` names the part of Dict observations that the constraint reads. Functions, for instance
            control_barrier's, are MODULE:OBJECT too: the module is imported, the object is one of its constraints or
            functions.

    Raises:
        ValueError: an unknown name or key, a value that cannot be read, or one that the constraint does not take; a
            module that cannot be imported or has no such object.

    Example:
        >>> parse_constraint("box:lower=-1,upper=[0.5,1] & l1_ball:radius=1").depends_on_state
        False
    """
    if isinstance(spec, str):
        spec = [_from_text(part) for part in spec.split("&")]
    elif isinstance(spec, Mapping):
        spec = [{name: arguments} for name, arguments in spec.items()]
    elif not isinstance(spec, Iterable):
        raise ValueError(f"constraint: expected text, a mapping or a list, got {type(spec).__name__}.")
    parts = [_part(part) for part in spec]
    if not parts:
        raise ValueError("constraint: expected at least one, got none.")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole & part
    return whole


def _part(part: Any) -> ActionConstraint:
    if isinstance(part, ActionConstraint):
        return part
    return _build(part) if isinstance(part, Mapping) and len(part) == 1 else parse_constraint(part)


def _from_text(text: str) -> dict[str, Any] | ActionConstraint:
    if _OBJECT.fullmatch(text.strip()) and find_constraint(text.strip().partition(":")[0]) is None:
        found = _object("constraint", text.strip())
        if not isinstance(found, ActionConstraint):
            raise ValueError(f"constraint: expected {text.strip()} to be a constraint, got {type(found).__name__}.")
        return found
    name, _, rest = text.strip().partition(":")
    arguments: dict[str, Any] = {}
    for piece in _pieces(rest):
        key, equals, value = (side.strip() for side in piece.partition("="))
        if not equals or not key or not value:
            raise ValueError(f"constraint: expected NAME:key=value[,key=value], got {piece!r} in {text.strip()!r}.")
        if key in arguments:
            raise ValueError(f"constraint: {key!r} is given twice in {text.strip()!r}.")
        arguments[key] = _value(key, value)
    return {name.strip(): arguments}


def _pieces(text: str) -> list[str]:
    """Split at the commas that are outside of brackets."""
    pieces, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    return [*pieces, text[start:]] if text.strip() else []


def _value(key: str, text: str) -> Any:
    """As YAML, except that 8:11 is no number of base sixty."""
    import yaml  # comes with the extra train

    if _SLICE.fullmatch(text):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"constraint: cannot read {key}={text!r}: {' '.join(str(error).split())}") from error


def _build(part: Mapping[str, Any]) -> ActionConstraint:
    ((name, arguments),) = part.items()
    kind = find_constraint(name) if isinstance(name, str) else None
    if kind is None:
        known = known_constraints()
        raise ValueError(f"constraint: unknown name {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    parameters = kind.parameters
    if not isinstance(arguments, Mapping):
        needed = [key for key in parameters if parameters[key].default is inspect.Parameter.empty]
        if arguments is not None and len(needed) != 1:
            raise ValueError(f"{name}: expected a mapping of arguments, got {arguments!r}.")
        arguments = {} if arguments is None else {needed[0]: arguments}
    for key in arguments:
        if key not in (*parameters, "reading"):
            raise ValueError(
                f"{name}: unknown key {key!r}.{did_you_mean(key, parameters)} Known: {', '.join(parameters)}, reading."
            )
    values = {key: _read(name, kind, key, value) for key, value in arguments.items() if key != "reading"}
    try:
        constraint = kind.make(**values)
    except TypeError as error:  # an argument is missing
        raise ValueError(f"{name}: {error}. Known keys: {', '.join(parameters)}.") from error
    return constraint.reading(str(arguments["reading"])) if "reading" in arguments else constraint


def _read(name: str, kind: Kind, key: str, value: Any) -> Any:
    """An argument's value."""
    value = _plain(value)
    if key in kind.readers:
        return kind.readers[key](f"{name}.{key}", value)
    if isinstance(value, str) and _OBJECT.fullmatch(value):
        return _object(f"{name}.{key}", value)
    return value


def _object(name: str, text: str) -> Any:
    """What MODULE:OBJECT names."""
    module, _, attribute = text.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ValueError(
            f"{name}: cannot import {module} of {text!r} ({error}). Is it in the working folder, or installed?"
        ) from error
    except AttributeError as error:
        raise ValueError(f"{name}: module {module} has no {attribute!r}.") from error


def _plain(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 and inf as text: they are numbers here."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str) and (_NUMBER.fullmatch(value) or value.lstrip("+-").lower() in ("inf", ".inf")):
        return float(value.replace(".inf", "inf"))
    return value
