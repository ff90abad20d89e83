"""Arguments as data: KEY=VALUE from the command line, merged, and checked against their constructors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

import yaml

from icnn_rl.agents.arguments import arguments
from icnn_rl.runs.errors import UserError
from icnn_rl.spelling import did_you_mean

__all__ = [
    "argument_defaults",
    "check_keys",
    "merge_settings",
    "names_of",
    "numbers",
    "parameters",
    "parse_overrides",
    "parse_seeds",
]


#: For the error messages of options that take KEY=VALUE.
_EXAMPLES = {
    "--set": "learning_rate=3e-4",
    "--env-kwargs": "max_power=20",
    "--vec-normalize": "norm_reward=false",
}


def parse_overrides(items: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """["a.b=1", "c=[2, 3]"] -> {"a": {"b": 1}, "c": [2, 3]}. Values are YAML, read by its safe loader.

    Raises:
        UserError: an item without "=", or a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise UserError(f"{option} {item}: expected key=value, for instance {option} {_EXAMPLES[option]}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {item}: the value is not valid YAML ({error}).") from error
        value = numbers(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge_settings(result, value)
    return result


def parse_seeds(given: Any) -> list[int]:
    """From 3, [0, 1], "0-9" or "0,4-6"; each once, in the order given.

    Raises:
        UserError: anything else.
    """
    seeds: list[int] = []
    for part in given if isinstance(given, list) else str(given).split(","):
        first, dash, last = str(part).strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UserError(f"--seeds {given}: expected integers >= 0 and ranges such as 0-9, got {part!r}.")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def numbers(value: Any) -> Any:
    """Strings that are numbers become numbers, also inside lists and mappings: YAML 1.1 reads 3e-4 as a string."""
    if isinstance(value, Mapping):
        return {key: numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [numbers(part) for part in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge_settings(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``layer``, mappings key by key; neither is changed."""
    merged = deepcopy(dict(base))
    for key, value in layer.items():
        both_maps = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_settings(merged[key], value) if both_maps else deepcopy(value)
    return merged


@functools.cache
def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's arguments, through **kwargs up the class tree."""
    return arguments(cls.__mro__)


def argument_defaults(cls: type) -> dict[str, Any]:
    """Default values of the constructor's arguments, the most derived class's first."""
    return {name: p.default for name, p in parameters(cls).items() if p.default is not p.empty}


def names_of(creator: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of the arguments of a class or function, and whether it takes others too."""
    if isinstance(creator, type):
        return set(parameters(creator)), False
    found = inspect.signature(creator).parameters.values()
    named = {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def check_keys(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Every key must be known.

    Raises:
        UserError: one is not; names the nearest known ones.
    """
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known, most=3) or f" Known: {', '.join(sorted(known))}."
            raise UserError(f"{key}: not an argument of {where}.{hint}")
