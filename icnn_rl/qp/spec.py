"""Constraints as text or YAML, for command lines and configs: data, never code.

power_limit:velocity_index=8:11,max_power=20 & rate_limit:max_change=0.1

- power_limit: {velocity_index: "8:11", max_power: 20}
- rate_limit: {max_change: 0.1}
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from icnn_rl.qp import constraints
from icnn_rl.qp.constraints import ActionConstraint

__all__ = ["parse_constraint"]

#: What can be named. Arguments that are functions have no form as text.
_KNOWN: dict[str, Callable[..., ActionConstraint]] = {
    name: getattr(constraints, name)
    for name in ("ball", "box", "ellipsoid", "l1_ball", "linear", "power_limit", "rate_limit")
}
_ONLY_CODE = {"power_limit": ("weights",)}

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_SLICE = re.compile(r"-?\d*:-?\d*")


def parse_constraint(spec: str | Mapping[str, Any] | Iterable[Any]) -> ActionConstraint:
    """The constraint that a text, a mapping or a list of them describes.

    Args:
        spec: NAME:key=value[,key=value...], several joined by "&"; or {NAME: {key: value}}; or a list of either. All
            of them hold. Values are read as YAML: numbers, 3e-4 and inf among them, lists, true and false; 8:11 is a
            slice of the observation (in a YAML file in quotes: without, it is the number 491, which is refused). What
            needs one argument takes it without its name in a mapping, {rate_limit: 0.5}. The key ``reading``
            names the part of Dict observations that the constraint reads.

    Raises:
        ValueError: an unknown name or key, a value that cannot be read, or one that the constraint does not take.

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
    parts = [_build(part) if isinstance(part, Mapping) and len(part) == 1 else parse_constraint(part) for part in spec]
    if not parts:
        raise ValueError("constraint: expected at least one, got none.")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole & part
    return whole


def _from_text(text: str) -> dict[str, Any]:
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
    if _SLICE.fullmatch(text):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"constraint: cannot read {key}={text!r}: {' '.join(str(error).split())}") from error


def _build(part: Mapping[str, Any]) -> ActionConstraint:
    ((name, arguments),) = part.items()
    if name not in _KNOWN:
        raise ValueError(f"constraint: unknown name {name!r}.{_nearest(name, _KNOWN)} Known: {', '.join(_KNOWN)}.")
    parameters = inspect.signature(_KNOWN[name]).parameters
    known = [key for key in parameters if key not in _ONLY_CODE.get(name, ())]
    if not isinstance(arguments, Mapping):
        needed = [key for key in known if parameters[key].default is inspect.Parameter.empty]
        if arguments is not None and len(needed) != 1:
            raise ValueError(f"{name}: expected a mapping of arguments, got {arguments!r}.")
        arguments = {} if arguments is None else {needed[0]: arguments}
    for key in arguments:
        if key not in (*known, "reading"):
            raise ValueError(f"{name}: unknown key {key!r}.{_nearest(key, known)} Known: {', '.join(known)}, reading.")
    values = {key: _plain(value) for key, value in arguments.items() if key != "reading"}
    index = values.get("velocity_index")
    if isinstance(index, int) and not isinstance(index, bool):
        raise ValueError(
            f"{name}.velocity_index: got the number {index}. YAML reads a slice without quotes, 8:11, as a number of "
            f'base sixty: write "8:11", or [{index}] for the one place {index}.'
        )
    try:
        constraint = _KNOWN[name](**values)
    except TypeError as error:  # an argument is missing
        raise ValueError(f"{name}: {error}. Known keys: {', '.join(known)}.") from error
    return constraint.reading(str(arguments["reading"])) if "reading" in arguments else constraint


def _plain(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 and inf as text: they are numbers here."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str) and (_NUMBER.fullmatch(value) or value.lstrip("+-").lower() in ("inf", ".inf")):
        return float(value.replace(".inf", "inf"))
    return value


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
