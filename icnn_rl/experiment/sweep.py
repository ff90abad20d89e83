"""Sweeps: every agent on every environment with every seed, one job each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from icnn_rl.experiment.config import AGENTS, Config, parse_overrides, resolve_settings
from icnn_rl.experiment.errors import UserError
from icnn_rl.experiment.jobs import Job

__all__ = ["ALL", "Sweep", "make_jobs", "read_sweep", "read_sweep_file"]

_MAX_WARM_UP = 10_000  # as ICNNQ's
_DEFAULT = "default"
ALL = "all"  # key of the settings of every agent


@dataclass(frozen=True)
class Sweep:
    """What to run.

    agents, envs, seeds: every combination is a job. timesteps: environment steps by environment, "default" for the
    others. warm_up: environment steps with random actions before an off-policy agent's first update: "tenth" of the
    run, at most 10 000 (ICNNQ's own rule) for all; "own": each agent's default; or a number. settings: constructor
    arguments by agent, "all" for every one; they win over warm_up. eval_freq, checkpoint_freq: steps between
    evaluations and checkpoints; None: a tenth of the run. The rest as in :class:`icnn_rl.experiment.config.Config`.
    """

    agents: list[str]
    envs: list[str]
    seeds: list[int]
    timesteps: dict[str, int]
    warm_up: str | int = "tenth"
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_envs: int = 1
    device: str = "cpu"
    constraint: Any = None
    eval_freq: int | None = None
    eval_episodes: int = 5
    checkpoint_freq: int | None = None
    final_episodes: int = 20

    def to_yaml(self) -> str:
        """As :func:`read_sweep_file` reads it."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def read_sweep_file(path: Path) -> dict[str, Any]:
    """The options in a YAML file.

    Raises:
        UserError: it is missing, is not YAML or has an unknown key.
    """
    try:
        options = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a YAML file of a sweep ({error}).") from error
    known = [f.name for f in fields(Sweep)]
    if not isinstance(options, dict):
        raise UserError(f"{path}: expected key: value pairs with the keys {', '.join(known)}, got {options!r}.")
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(str(key), known)
            raise UserError(f"{path}: {key} is no option of a sweep. Known: {', '.join(near or known)}.")
    return options


def read_sweep(options: Mapping[str, Any]) -> Sweep:
    """A sweep from plain data, of a file or the command line.

    Args:
        options: the fields of :class:`Sweep`. agents, envs and seeds may be lists or texts, "icnn,td3" and "0-9,12";
            timesteps a number, a mapping, or texts such as "100000" and "Walker2d-v5=200000"; settings a mapping or
            texts such as "tau=0.01" and "td3:learning_rate=3e-4".

    Raises:
        UserError: something is missing, unknown or of the wrong kind; names it.
    """
    for name in ("agents", "envs", "seeds", "timesteps"):
        if options.get(name) in (None, "", [], {}):
            raise UserError(f"--{name}: missing. A sweep needs agents, envs, seeds and timesteps.")
    sweep = Sweep(
        **{
            **options,
            "agents": _names(options["agents"]),
            "envs": _names(options["envs"]),
            "seeds": _seeds(options["seeds"]),
            "timesteps": _timesteps(options["timesteps"]),
            "settings": _settings(options.get("settings") or {}),
            "warm_up": _warm_up(options.get("warm_up", "tenth")),
        }
    )
    for agent in [*sweep.agents, *(name for name in sweep.settings if name != ALL)]:
        if agent not in AGENTS:
            raise UserError(f"agent {agent!r}: unknown; expected some of {', '.join(sorted(AGENTS))}.")
    for env in sweep.envs:
        if env not in sweep.timesteps and _DEFAULT not in sweep.timesteps:
            raise UserError(f"--timesteps: none for {env}. Give a number for all, or {env}=NUMBER.")
        try:
            gym.spec(env)
        except (gym.error.Error, ImportError) as error:
            raise UserError(f"--envs {env}: {error}") from error
    for name in ("n_envs", "eval_freq", "eval_episodes", "checkpoint_freq", "final_episodes"):
        if getattr(sweep, name) is not None:
            _count(name, getattr(sweep, name))
    return sweep


def make_jobs(sweep: Sweep, out: Path) -> list[Job]:
    """The jobs, into ``out``/ENV-AGENT-sSEED; the first seed of everything comes first.

    Raises:
        UserError: a setting is not one of the agent's.
    """
    return [
        Job(_config(sweep, agent, env, seed), out.resolve() / _folder(agent, env, seed), sweep.final_episodes)
        for seed in sweep.seeds
        for env in sweep.envs
        for agent in sweep.agents
    ]


def _folder(agent: str, env: str, seed: int) -> str:
    return f"{env.replace('/', '_').replace(':', '_')}-{agent}-s{seed}"


def _config(sweep: Sweep, agent: str, env: str, seed: int) -> Config:
    timesteps = sweep.timesteps.get(env) or sweep.timesteps[_DEFAULT]
    warm_up: dict[str, Any] = {}
    if sweep.warm_up != "own" and issubclass(AGENTS[agent], OffPolicyAlgorithm):
        steps = min(timesteps // 10, _MAX_WARM_UP) if sweep.warm_up == "tenth" else sweep.warm_up
        warm_up = {"learning_starts": steps}
    given = [sweep.settings.get(name, {}) for name in (ALL, agent)]
    return Config(
        agent=agent,
        env=env,
        timesteps=timesteps,
        seed=seed,
        n_envs=sweep.n_envs,
        device=sweep.device,
        eval_freq=sweep.eval_freq or max(timesteps // 10, 1),
        eval_episodes=sweep.eval_episodes,
        checkpoint_freq=sweep.checkpoint_freq or max(timesteps // 10, 1),
        settings=resolve_settings(agent, env, warm_up, *given),
        constraint=sweep.constraint,
    )


def _names(given: str | Iterable[str]) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given
    return list(dict.fromkeys(str(name).strip() for name in names))


def _seeds(given: Any) -> list[int]:
    """From 3, [0, 1], "0-9" or "0,4-6"."""
    seeds: list[int] = []
    for part in given if isinstance(given, list) else str(given).split(","):
        first, dash, last = str(part).strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UserError(f"--seeds {given}: expected integers >= 0 and ranges such as 0-9, got {part!r}.")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def _timesteps(given: Any) -> dict[str, int]:
    if isinstance(given, Mapping):
        return {str(env): _count(f"timesteps of {env}", steps) for env, steps in given.items()}
    found = {}
    for part in given if isinstance(given, list) else [given]:
        env, equals, steps = str(part).rpartition("=")
        found[env if equals else _DEFAULT] = _count("timesteps", steps)
    return found


def _count(name: str, given: Any) -> int:
    if isinstance(given, bool) or not str(given).isdigit() or int(given) < 1:
        raise UserError(f"{name}: expected an integer >= 1, got {given!r}.")
    return int(given)


def _settings(given: Any) -> dict[str, dict[str, Any]]:
    if isinstance(given, list):
        groups: dict[str, list[str]] = {}
        for item in given:
            key = item.partition("=")[0]
            agent, colon, _ = key.rpartition(":")
            groups.setdefault(agent if colon else ALL, []).append(item.removeprefix(agent + colon))
        return {agent: parse_overrides(items) for agent, items in groups.items()}
    if not isinstance(given, Mapping) or not all(isinstance(part, Mapping) for part in given.values()):
        raise UserError(f"settings: expected agent: {{key: value}}, or all: {{key: value}}, got {given!r}.")
    return {str(agent): dict(part) for agent, part in given.items()}


def _warm_up(given: Any) -> str | int:
    if given in ("tenth", "own"):
        return str(given)
    if not str(given).isdigit():
        raise UserError(f"--warm-up: expected tenth, own or a number of steps, got {given!r}.")
    return int(given)
