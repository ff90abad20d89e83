"""Settings of a run: defaults per agent and environment from YAML, then --set; every key checked against the
constructor."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.resources
import inspect
import platform
import subprocess
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from torch import nn

from icnn_rl import solvers
from icnn_rl.agents import ICNNQ, NAF
from icnn_rl.experiment.errors import UserError

__all__ = ["AGENTS", "Config", "build_agent", "parse_overrides", "resolve_settings", "versions"]

AGENTS: dict[str, type[BaseAlgorithm]] = {"icnn": ICNNQ, "naf": NAF, "ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}

#: Arguments that the command line passes itself.
_OWN_ARGUMENTS = {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
_SOLVERS = {name: getattr(solvers, name) for name in ("ProjectedNewton", "ProjectedGradient", "BundleEntropy")}


@dataclass(frozen=True)
class Config:
    """Everything that defines a run. ``settings`` are the agent's constructor arguments, resolved, as plain data."""

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

    def to_yaml(self, extra: Mapping[str, Any]) -> str:
        """The run's config.yml: these fields and what ``extra`` adds (versions, revision)."""
        return yaml.safe_dump({**{f.name: getattr(self, f.name) for f in fields(self)}, **extra}, sort_keys=False)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config.yml written by :meth:`to_yaml`.

        Raises:
            UserError: the file is missing, is not YAML, or lacks a field.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file. Expected a run folder made by `icnn-rl rl --out FOLDER`.")
        try:
            data = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML ({error}).") from error
        names = [f.name for f in fields(cls)]
        missing = [name for name in names if not isinstance(data, dict) or name not in data]
        if missing:
            raise UserError(
                f"{path}: lacks {', '.join(missing)}; it was not written by this program, or by another version of it."
            )
        return cls(**{name: data[name] for name in names})


def resolve_settings(agent: str, env: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the agent, then those for the environment, then ``overrides``; all keys checked.

    Raises:
        UserError: an unknown key, with the nearest known ones.
    """
    source = importlib.resources.files("icnn_rl.agents") / "configs" / f"{agent}.yml"
    table = yaml.safe_load(source.read_text()) or {}
    settings: dict[str, Any] = {}
    for layer in (table.get("default") or {}, table.get(env) or {}, overrides):
        settings = _merge(settings, layer)
    check_settings(agent, settings)
    return settings


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """["a.b=1", "c=[2, 3]"] -> {"a": {"b": 1}, "c": [2, 3]}. Values are YAML, read by its safe loader.

    Raises:
        UserError: an item without "=", or a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise UserError(f"--set {item}: expected key=value, for instance --set learning_rate=3e-4.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {item}: the value is not valid YAML ({error}).") from error
        value = _number(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        result = _merge(result, value)
    return result


def _number(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 as a string; nobody who types it means one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in layer.items():
        both_maps = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_maps else deepcopy(value)
    return merged


def check_settings(agent: str, settings: Mapping[str, Any]) -> None:
    """Every key must be an argument of the agent's constructor, those of policy_kwargs of its policy's."""
    algorithm = AGENTS[agent]
    known = _arguments(algorithm) - _OWN_ARGUMENTS
    if issubclass(algorithm, TD3):
        known.add("exploration_noise")  # turned into an action noise below
    _check_keys(settings, known, f"agent {agent!r}")
    policy_kwargs = settings.get("policy_kwargs") or {}
    policy = settings.get("policy", "MlpPolicy")
    if policy not in algorithm.policy_aliases:
        raise UserError(f"policy: expected one of {', '.join(sorted(algorithm.policy_aliases))}, got {policy!r}.")
    policy_class = algorithm.policy_aliases[policy]
    _check_keys(
        policy_kwargs,
        _arguments(policy_class) - {"self", "observation_space", "action_space", "lr_schedule"},
        f"policy_kwargs of {agent!r}",
    )


def _arguments(cls: type) -> set[str]:
    """Names of the constructor's arguments, through **kwargs up the class tree."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _check_keys(given: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known))}."
            raise UserError(f"{key}: not an argument of {where}. {hint}")


def build_agent(config: Config, env: Any, tensorboard_log: str | None) -> BaseAlgorithm:
    """The agent that the configuration describes.

    Raises:
        UserError: a setting has a value that the constructor refuses.
    """
    algorithm = AGENTS[config.agent]
    settings = deepcopy(config.settings)
    policy = settings.pop("policy", None) or default_policy(env)
    noise = settings.pop("exploration_noise", None) if issubclass(algorithm, TD3) else None
    if noise:
        shape = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, float(noise)))
    if "policy_kwargs" in settings:
        settings["policy_kwargs"] = _build_policy_kwargs(settings["policy_kwargs"])
    if isinstance(settings.get("train_freq"), list):
        settings["train_freq"] = tuple(settings["train_freq"])
    if "buffer_size" in _arguments(algorithm):
        default = inspect.signature(algorithm.__init__).parameters.get("buffer_size")
        wanted = settings.get("buffer_size", default.default if default is not None else 1_000_000)
        settings["buffer_size"] = min(int(wanted), config.timesteps + config.n_envs)  # no larger than the run
    try:
        return algorithm(
            policy, env, seed=config.seed, device=config.device, tensorboard_log=tensorboard_log, **settings
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"agent {config.agent!r} on {config.env}: {error}") from error


def default_policy(env: Any) -> str:
    """The policy name that fits the observations."""
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    if isinstance(env.observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(env.observation_space) else "MlpPolicy"


def _build_policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data to objects: solvers by name, activation classes by their name in torch.nn, lists of widths to tuples
    where needed."""
    built = dict(given)
    for key in ("solver", "act_solver"):
        if isinstance(built.get(key), Mapping | str):
            built[key] = _build_solver(key, built[key])
    if isinstance(built.get("activation_fn"), str):
        name = built["activation_fn"]
        if not (hasattr(nn, name) and isinstance(getattr(nn, name), type)):
            raise UserError(
                f"policy_kwargs.activation_fn: torch.nn has no class {name!r}; for instance ReLU, ELU, Tanh."
            )
        built["activation_fn"] = getattr(nn, name)
    return built


def _build_solver(key: str, given: Mapping[str, Any] | str) -> Any:
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", "ProjectedNewton")
    if name not in _SOLVERS:
        raise UserError(f"policy_kwargs.{key}.name: expected one of {', '.join(_SOLVERS)}, got {name!r}.")
    _check_keys(options, {f.name for f in fields(_SOLVERS[name])}, f"solver {name}")
    try:
        return _SOLVERS[name](**options)
    except ValueError as error:
        raise UserError(f"policy_kwargs.{key}: {error}") from error


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("icnn-rl", "torch", "gymnasium", "mujoco", "stable-baselines3", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["torch"] = str(torch.__version__)
    return found


def revision() -> str:
    """The git revision of the source, with "+changes" where files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described + ("+changes" if changed.strip() else "")
