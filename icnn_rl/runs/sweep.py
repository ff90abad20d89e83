"""Sweeps: every agent on every environment with every seed, one job each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from icnn_rl.agents.icnn_q.algorithm import warm_up
from icnn_rl.runs.arguments import merge_settings, parse_overrides, parse_seeds
from icnn_rl.runs.config.agents import AGENTS
from icnn_rl.runs.config.defaults import default_episodes, resolve_settings
from icnn_rl.runs.config.record import Config, first_length
from icnn_rl.runs.environments import NO_CONSTRAINT, import_env, read_constraints, read_vec_normalize
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import name_of
from icnn_rl.runs.jobs import Job
from icnn_rl.runs.values import whole_number
from icnn_rl.runs.wrappers import read_wrappers
from icnn_rl.spelling import did_you_mean

__all__ = ["ALL", "Sweep", "make_jobs", "merge_options", "read_sweep", "read_sweep_file"]

_DEFAULT = "default"
_COUNTED = ("n_envs", "eval_episodes", "final_episodes", "eval_freq", "checkpoint_freq")
ALL = "all"  # key of the settings of every agent


@dataclass(frozen=True)
class Sweep:
    """What to run.

    agents, envs, seeds: every combination is a job. timesteps: environment steps by environment, "default" for all
    others. warm_up: random steps before an off-policy agent's first update: "tenth", ICNNQ's rule for all
    (:func:`~icnn_rl.agents.icnn_q.algorithm.warm_up`); "own", each agent's default; or a number. settings: constructor
    arguments by agent, "all" for every agent; they override warm_up. eval_freq, checkpoint_freq: steps between
    evaluations and checkpoints; None: a tenth of the run. eval_episodes, final_episodes: None:
    :func:`icnn_rl.runs.config.default_episodes`. The rest as in :class:`icnn_rl.runs.config.Config`.
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
    env_kwargs: dict[str, Any] | None = None
    wrappers: list[Any] | None = None
    vec_normalize: dict[str, Any] | None = None
    eval_freq: int | None = None
    eval_episodes: int | None = None
    checkpoint_freq: int | None = None
    final_episodes: int | None = None

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
            hint = did_you_mean(key, known) or f" Known: {', '.join(known)}."
            raise UserError(f"{path}: {key} is no option of a sweep.{hint}")
    return options


def merge_options(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Options for :func:`read_sweep`: ``above`` overrides ``below``, settings one by one; what ``above`` sets for all
    agents overrides what ``below`` sets for one."""
    ours, theirs = (_settings(options.get("settings") or {}) for options in (above, below))
    settings = {
        agent: merge_settings(merge_settings(theirs.get(agent, {}), ours.get(ALL, {})), ours.get(agent, {}))
        for agent in {**theirs, **ours}
    }
    return {**below, **above, "settings": settings}


def read_sweep(options: Mapping[str, Any]) -> Sweep:
    """A sweep from plain data, from a file or the command line.

    Args:
        options: the fields of :class:`Sweep`. agents, envs and seeds may be lists or texts, "icnn,td3" and "0-9,12";
            timesteps a number, a mapping, or texts such as "100000" and "Walker2d-v5=200000"; settings a mapping or
            texts such as "tau=0.01" and "td3:learning_rate=3e-4"; constraint also texts and names of YAML files,
            env_kwargs, wrappers and vec_normalize also texts, as of ``icnn-rl rl``.

    Raises:
        UserError: something is missing, unknown or of the wrong kind; names it.
    """
    for name in ("agents", "envs", "seeds", "timesteps"):
        if options.get(name) in (None, "", [], {}):
            raise UserError(f"--{name}: missing. A sweep needs agents, envs, seeds and timesteps.")
    sweep = Sweep(
        **{
            **options,
            "agents": _names("agents", options["agents"]),
            "envs": _names("envs", options["envs"]),
            "seeds": parse_seeds(options["seeds"]),
            "timesteps": _timesteps(options["timesteps"]),
            "settings": _settings(options.get("settings") or {}),
            "warm_up": _warm_up(options.get("warm_up", "tenth")),
            "constraint": _constraint(options.get("constraint")),
            "env_kwargs": _env_kwargs(options.get("env_kwargs")),
            "wrappers": read_wrappers(_as_list(options.get("wrappers"))),
            "vec_normalize": read_vec_normalize(options.get("vec_normalize")),
        }
    )
    for agent in [*sweep.agents, *(name for name in sweep.settings if name != ALL)]:
        if agent not in AGENTS:
            raise UserError(f"agent {agent!r}: unknown; expected some of {', '.join(sorted(AGENTS))}.")
    for env in sweep.envs:
        if env not in sweep.timesteps and _DEFAULT not in sweep.timesteps:
            raise UserError(f"--timesteps: none for {env}. Give a number for all, or {env}=NUMBER.")
        _check_known("--envs", env)
    for env in sweep.timesteps:
        if env not in (_DEFAULT, *sweep.envs):  # a file may list more than is trained now
            _check_known("--timesteps", env)
    counted = {name: getattr(sweep, name) for name in _COUNTED}
    counts: dict[str, Any] = {
        name: _count(name, given) for name, given in counted.items() if given is not None or name == "n_envs"
    }
    return replace(sweep, **counts)


def make_jobs(sweep: Sweep, out: Path) -> list[Job]:
    """The jobs, into ``out``/ENV-AGENT-sSEED; the first seed of everything comes first.

    Raises:
        UserError: a setting is not one of the agent's.
    """
    return [
        Job(_config(sweep, agent, env, seed, folder), folder)
        for seed in sweep.seeds
        for env in sweep.envs
        for agent in sweep.agents
        for folder in [out.resolve() / f"{name_of(env)}-{agent}-s{seed}"]
    ]


def _config(sweep: Sweep, agent: str, env: str, seed: int, folder: Path) -> Config:
    timesteps = sweep.timesteps.get(env) or sweep.timesteps[_DEFAULT]
    planned = min(
        first_length(folder) or timesteps, timesteps
    )  # an extended run keeps what its first length determined
    eval_episodes, _ = default_episodes(planned)
    learning_starts: dict[str, Any] = {}
    if sweep.warm_up != "own" and issubclass(AGENTS[agent], OffPolicyAlgorithm):
        steps = warm_up(planned) if sweep.warm_up == "tenth" else sweep.warm_up
        learning_starts = {"learning_starts": steps}
    given = [sweep.settings.get(name, {}) for name in (ALL, agent)]
    return Config(
        agent=agent,
        env=env,
        timesteps=timesteps,
        seed=seed,
        n_envs=sweep.n_envs,
        device=sweep.device,
        eval_freq=sweep.eval_freq or max(planned // 10, 1),
        eval_episodes=sweep.eval_episodes or eval_episodes,
        checkpoint_freq=sweep.checkpoint_freq or max(planned // 10, 1),
        settings=resolve_settings(agent, env, learning_starts, *given),
        constraint=sweep.constraint,
        env_kwargs=sweep.env_kwargs,
        wrappers=sweep.wrappers,
        vec_normalize=sweep.vec_normalize,
        final_episodes=sweep.final_episodes or default_episodes(timesteps)[1],
    )


def _check_known(option: str, env: str) -> None:
    try:
        gym.spec(import_env(option, env))
    except gym.error.Error as error:
        raise UserError(f"{option} {env}: {error}") from error


def _names(name: str, given: Any) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise UserError(f"--{name}: expected names, a list or with commas between, got {given!r}.")
    return list(dict.fromkeys(str(each).strip() for each in names))


def _timesteps(given: Any) -> dict[str, int]:
    if isinstance(given, Mapping):
        return {str(env): _count(f"timesteps of {env}", steps) for env, steps in given.items()}
    found: dict[str, int] = {}
    for part in given if isinstance(given, list) else [given]:
        env, equals, steps = str(part).rpartition("=")
        name = env if equals else _DEFAULT
        if name in found:
            raise UserError(f"--timesteps: {env or 'a number for all'} twice, {found[name]} and {steps}.")
        found[name] = _count("timesteps", steps)
    return found


def _count(name: str, given: Any) -> int:
    value = whole_number(given)
    if value is None or value < 1:
        raise UserError(f"{name}: expected an integer >= 1, got {given!r}.")
    return value


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


def _constraint(given: Any) -> Any:
    """Texts and names of YAML files are read; anything else is kept."""
    texts = [given] if isinstance(given, str) and given != NO_CONSTRAINT else given
    if isinstance(texts, list) and all(isinstance(item, str) for item in texts):
        return read_constraints(texts)
    return given


def _env_kwargs(given: Any) -> dict[str, Any] | None:
    options = parse_overrides(given, "--env-kwargs") if isinstance(given, list) else given or {}
    if not isinstance(options, Mapping):
        raise UserError(f"--env-kwargs: expected KEY: VALUE pairs, got {given!r}.")
    return dict(options) or None


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _warm_up(given: Any) -> str | int:
    if given in ("tenth", "own"):
        return str(given)
    value = whole_number(given)
    if value is None or value < 0:
        raise UserError(f"--warm-up: expected tenth, own or a number of steps, got {given!r}.")
    return value
