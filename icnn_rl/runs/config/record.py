"""A run's config.yml: what defines the run, written and read."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from icnn_rl.constraints import ActionConstraint
from icnn_rl.runs.arguments import argument_defaults, merge_settings
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.environments import parse_limit
from icnn_rl.runs.errors import UserError

__all__ = [
    "Config",
    "check_record",
    "differences",
    "first_length",
    "learns_nothing",
    "read_record",
    "supervised_command",
]

_COMMAND = "command"  # a key of supervised runs alone


@dataclass(frozen=True)
class Config:
    """Everything that defines a run, as plain data.

    settings: resolved arguments of the agent's constructor. constraint: for
    :func:`icnn_rl.constraints.parse_constraint`, or "none". final_episodes: in the evaluation of the last model.
    env_kwargs: arguments of the environment's constructor. wrappers: from
    :func:`icnn_rl.runs.wrappers.read_wrappers`. vec_normalize: arguments of SB3's VecNormalize.
    """

    agent: str
    env: str
    timesteps: int
    seed: int
    n_envs: int
    device: str
    eval_freq: int
    eval_episodes: int
    checkpoint_freq: int
    settings: dict[str, Any]
    constraint: Any = None
    final_episodes: int = 20
    env_kwargs: dict[str, Any] | None = None
    wrappers: list[Any] | None = None
    vec_normalize: dict[str, Any] | None = None

    @functools.cached_property
    def limit(self) -> ActionConstraint | None:
        """``constraint``, read once for all environments; None: none but the environment's own.

        Raises:
            UserError: it cannot be read.
        """
        return parse_limit(self.constraint)

    @property
    def surroundings(self) -> dict[str, Any]:
        """Further arguments of :func:`icnn_rl.runs.environments.make_env`."""
        normalize = self.vec_normalize
        if normalize is not None:  # rewards are scaled by the deviation of the agent's own discounted returns
            gamma = self.settings.get("gamma", argument_defaults(AGENTS[self.agent]).get("gamma", 0.99))
            normalize = {"gamma": gamma, **normalize}
        return {
            "constraint": self.limit,
            "env_kwargs": self.env_kwargs,
            "wrappers": self.wrappers,
            "vec_normalize": normalize,
        }

    @property
    def task(self) -> str:
        """The environment's id with its arguments and wrappers: agents are compared on equal tasks."""
        text = self.env + _in_brackets(self.env_kwargs or {})
        for wrapper in self.wrappers or []:
            ((name, given),) = wrapper.items()
            text += f" in {name}{_in_brackets(given)}"
        return text

    def to_yaml(self, extra: Mapping[str, Any]) -> str:
        """Contents of config.yml: the fields, and ``extra`` (versions, revision)."""
        return yaml.safe_dump({**{f.name: getattr(self, f.name) for f in fields(self)}, **extra}, sort_keys=False)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config.yml written by :meth:`to_yaml`.

        Raises:
            UserError: as :func:`read_record`.
        """
        return cls.of(read_record(path))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Config:
        """The configuration in a record."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


def _in_brackets(given: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in given.items())})" if given else ""


def read_record(path: Path) -> dict[str, Any]:
    """The contents of a run's config.yml: the fields of a :class:`Config`, defaults, versions, revision.

    Raises:
        UserError: the file is missing, is not YAML, or lacks a field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected a run folder made by `icnn-rl rl --out FOLDER`.")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({error}).") from error
    if isinstance(data, dict) and _COMMAND in data:
        raise UserError(f"{path}: of a run of `icnn-rl {data[_COMMAND]}`; expected one of `icnn-rl rl` or of a sweep.")
    return check_record(data, str(path))


def check_record(data: Any, where: str) -> dict[str, Any]:
    """``data``, if it has everything that defines a run.

    Raises:
        UserError: a field is missing, or the agent is unknown; starts with ``where``.
    """
    needed = [f.name for f in fields(Config) if f.default is MISSING]
    missing = [name for name in needed if not isinstance(data, dict) or name not in data]
    if missing:
        raise UserError(
            f"{where}: lacks {', '.join(missing)}; it was not written by this program, or by another version of it."
        )
    if data["agent"] not in AGENTS:
        raise UserError(f"{where}: unknown agent {data['agent']!r}; expected one of {', '.join(sorted(AGENTS))}.")
    return dict(data)


def first_length(folder: Path) -> int | None:
    """The length of the run in a folder before it was extended; None: no readable run."""
    try:
        record = read_record(folder / "config.yml")
    except UserError:
        return None
    return int(record.get("lengths", [record["timesteps"]])[0])


def supervised_command(path: Path) -> str | None:
    """The supervised command that wrote a config.yml; None: reinforcement learning, or not readable."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None
    return str(data[_COMMAND]) if isinstance(data, dict) and _COMMAND in data else None


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """How two records differ: in the fields ``names``, and in constructor arguments, set or default. Early versions did
    not record defaults; then only settings are compared."""
    silent = "defaults" not in one or "defaults" not in other
    first, second = (
        {
            **_flat(record["settings"] if silent else merge_settings(record["defaults"], record["settings"])),
            **{name: record.get(name) for name in names},
        }
        for record in (one, other)
    )
    pairs = {key: (first.get(key, "default"), second.get(key, "default")) for key in {**first, **second}}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, as --set names them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def learns_nothing(config: Config) -> str | None:
    """A warning if the run ends before the agent's first update; None if it does not."""
    algorithm = AGENTS[config.agent]
    starts = config.settings.get("learning_starts", argument_defaults(algorithm).get("learning_starts"))
    if not issubclass(algorithm, OffPolicyAlgorithm) or starts is None or starts < config.timesteps:
        return None
    return (
        f"{config.agent} learns nothing in {config.timesteps} steps: its first update comes after {starts}, "
        f"all random. For a trial so short: --set learning_starts={config.timesteps // 10}."
    )
