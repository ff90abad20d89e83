"""Settings of a run: defaults per agent and environment from YAML, then --set; every key checked against the
constructor."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import platform
import subprocess
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from icnn_rl import solvers
from icnn_rl.agents import (
    ICNNQ,
    NAF,
    ConstrainedPPOPolicy,
    ConstrainedSACPolicy,
    ConstrainedTD3Policy,
    ExecutedActionReplayBuffer,
    check_agent,
)
from icnn_rl.agents.icnn_q.policy import LEFT_TO_PICNN
from icnn_rl.nn import PICNN
from icnn_rl.runs.arguments import check_keys, merge_settings, numbers, parameters, parse_overrides
from icnn_rl.runs.environments import NO_CONSTRAINT, constraint_of
from icnn_rl.runs.errors import UserError

__all__ = [
    "AGENTS",
    "Config",
    "buffer_size",
    "build_agent",
    "check_device",
    "constructor_defaults",
    "default_episodes",
    "differences",
    "first_length",
    "learns_nothing",
    "merge_settings",
    "parse_overrides",
    "parse_seeds",
    "read_record",
    "resolve_settings",
    "versions",
]

AGENTS: dict[str, type[BaseAlgorithm]] = {"icnn": ICNNQ, "naf": NAF, "ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}

#: The policies that take a constraint; ICNNQ and NAF take one in theirs.
_CONSTRAINED: dict[str, type[BasePolicy]] = {
    "ddpg": ConstrainedTD3Policy,
    "td3": ConstrainedTD3Policy,
    "sac": ConstrainedSACPolicy,
    "ppo": ConstrainedPPOPolicy,
}

#: Arguments that the command line passes itself.
_OWN_ARGUMENTS = {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
_SOLVERS = {
    name: getattr(solvers, name) for name in ("ProjectedNewton", "ProjectedGradient", "BundleEntropy", "ProximalBundle")
}

#: Arguments that are objects or classes, which text cannot say.
_OBJECTS = {"action_noise", "replay_buffer_class"}

#: Settings of a policy that are classes, given by name.
_CLASSES = {"activation_fn": (nn, "ReLU, ELU, Tanh"), "optimizer_class": (torch.optim, "Adam, AdamW, SGD")}

#: Settings that may fall over the run, written lin_3e-4.
_SCHEDULED = ("learning_rate", "clip_range")

_COMMAND = "command"  # a key of supervised runs alone


@dataclass(frozen=True)
class Config:
    """Everything that defines a run. ``settings`` are the agent's constructor arguments, resolved, as plain data;
    ``constraint`` is a text for :func:`icnn_rl.constraints.parse_constraint`, or "none"; ``final_episodes`` those
    of the evaluation of the last model; ``env_kwargs`` arguments of the environment's constructor, ``wrappers`` what
    :func:`icnn_rl.runs.wrappers.read_wrappers` gives, ``vec_normalize`` the arguments of SB3's VecNormalize."""

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

    @property
    def surroundings(self) -> dict[str, Any]:
        """What else :func:`icnn_rl.runs.environments.make_env` has to know of the environment."""
        normalize = self.vec_normalize
        if normalize is not None:  # rewards are divided by the deviation of the agent's own returns
            gamma = self.settings.get("gamma", _defaults(AGENTS[self.agent]).get("gamma", 0.99))
            normalize = {"gamma": gamma, **normalize}
        return {
            "constraint": self.constraint,
            "env_kwargs": self.env_kwargs,
            "wrappers": self.wrappers,
            "vec_normalize": normalize,
        }

    @property
    def task(self) -> str:
        """The environment's id, with its arguments and wrappers: what agents are compared on."""
        text = self.env + _in_brackets(self.env_kwargs or {})
        for wrapper in self.wrappers or []:
            ((name, given),) = wrapper.items()
            text += f" in {name}{_in_brackets(given)}"
        return text

    def to_yaml(self, extra: Mapping[str, Any]) -> str:
        """The run's config.yml: these fields and what ``extra`` adds (versions, revision)."""
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
        """The configuration in what :func:`read_record` has read."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


def _in_brackets(given: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in given.items())})" if given else ""


def default_episodes(timesteps: int) -> tuple[int, int]:
    """Episodes of an evaluation while training and of that at the end: 5 and 20, fewer where the run is so short that
    evaluations would take most of its time."""
    return max(1, min(5, timesteps // 2000)), max(2, min(20, timesteps // 500))


def learns_nothing(config: Config) -> str | None:
    """What to tell someone whose run ends before the agent's first update; None: there will be updates."""
    algorithm = AGENTS[config.agent]
    starts = config.settings.get("learning_starts", _defaults(algorithm).get("learning_starts"))
    if not issubclass(algorithm, OffPolicyAlgorithm) or starts is None or starts < config.timesteps:
        return None
    return (
        f"{config.agent} learns nothing in {config.timesteps} steps: its first update comes after {starts}, "
        f"all random. For a trial so short: --set learning_starts={config.timesteps // 10}."
    )


def read_record(path: Path) -> dict[str, Any]:
    """All that a run's config.yml tells: the fields of a :class:`Config`, defaults, versions, revision.

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
    needed = [f.name for f in fields(Config) if f.default is MISSING]
    missing = [name for name in needed if not isinstance(data, dict) or name not in data]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; it was not written by this program, or by another version of it."
        )
    if data["agent"] not in AGENTS:
        raise UserError(f"{path}: unknown agent {data['agent']!r}; expected one of {', '.join(sorted(AGENTS))}.")
    return dict(data)


def first_length(folder: Path) -> int | None:
    """The steps that the run in a folder had before it was made longer; None: there is no run, or none to read."""
    try:
        record = read_record(folder / "config.yml")
    except UserError:
        return None
    return int(record.get("lengths", [record["timesteps"]])[0])


def supervised_command(path: Path) -> str | None:
    """Which supervised command's run a config.yml is of; None: of reinforcement learning, or not readable."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None
    return str(data[_COMMAND]) if isinstance(data, dict) and _COMMAND in data else None


def resolve_settings(agent: str, env: str, *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the agent, then those for the environment, then ``overrides`` in turn; all keys checked.

    Raises:
        UserError: an unknown key, with the nearest known ones, or a value of the wrong kind.
    """
    source = importlib.resources.files("icnn_rl.agents") / "configs" / f"{agent}.yml"
    table = yaml.safe_load(source.read_text()) or {}
    settings: dict[str, Any] = {}
    for layer in (table.get("default") or {}, table.get(env) or {}, *overrides):
        settings = merge_settings(settings, numbers(layer))
    check_settings(agent, settings)
    return _whole_numbers(agent, settings)


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


def _whole_numbers(agent: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """1e5 becomes 100000 where the constructor takes an integer."""
    return {
        key: int(value) if is_integer(agent, key) and isinstance(value, float) else value
        for key, value in settings.items()
    }


def is_integer(agent: str, key: str) -> bool:
    """Whether an argument of the agent's constructor is an integer, or an integer or None."""
    algorithm = AGENTS[agent]
    return type(_defaults(algorithm).get(key)) is int or key in _optional_integers(algorithm)


def _optional_integers(algorithm: type[BaseAlgorithm]) -> set[str]:
    return {name for name, parameter in parameters(algorithm).items() if str(parameter.annotation) == "int | None"}


def check_settings(agent: str, settings: Mapping[str, Any]) -> None:
    """Every key must be an argument of the agent's constructor, those of policy_kwargs of its policy's; a number must
    be given where the default is one."""
    algorithm = AGENTS[agent]
    known = _arguments(algorithm) - _OWN_ARGUMENTS
    if issubclass(algorithm, TD3):
        known.add("exploration_noise")  # turned into an action noise below
    check_keys(settings, known, f"agent {agent!r}")
    for key in _OBJECTS & settings.keys():
        raise UserError(
            f"{key}: takes an object, which a setting cannot be: build the agent in Python. For Gaussian noise of td3, "
            "ddpg, icnn and naf: exploration_noise=0.1."
        )
    _check_kinds(settings, algorithm)
    policy_kwargs = _mapping("policy_kwargs", settings.get("policy_kwargs"))
    policy = settings.get("policy", "MlpPolicy")
    if policy not in list(algorithm.policy_aliases):
        raise UserError(f"policy: expected one of {', '.join(sorted(algorithm.policy_aliases))}, got {policy!r}.")
    known = _arguments(algorithm.policy_aliases[policy])
    if agent in _CONSTRAINED:
        known |= _arguments(_CONSTRAINED[agent])
    check_keys(
        policy_kwargs,
        known - {"self", "observation_space", "action_space", "lr_schedule", "constraint"},
        f"policy_kwargs of {agent!r}",
    )
    check_keys(
        _mapping("policy_kwargs.picnn_kwargs", policy_kwargs.get("picnn_kwargs")),
        set(LEFT_TO_PICNN),
        "picnn_kwargs, the input-convex network",
    )


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: expected key: value pairs, got {value!r}. For one of them: --set {name}.KEY=VALUE.")
    return value


def _check_kinds(given: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> None:
    """Truth values and numbers where the default is one; lists and the like are the constructor's business."""
    defaults = {"exploration_noise": 0.1, **_defaults(algorithm)}
    optional_integers = _optional_integers(algorithm)
    for key, value in given.items():
        default = defaults.get(key)
        if key in optional_integers:
            if not (value is None or type(value) is int or (isinstance(value, float) and value.is_integer())):
                raise UserError(f"{key}: expected an integer or null, got {value!r}.")
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{key}: expected true or false, got {value!r}.")
        elif isinstance(default, int | float) and _schedule(key, value) is None:
            if value is None or isinstance(value, bool | str | Mapping):
                raise UserError(f"{key}: expected a number, got {value!r}. The default is {default}.")
            if isinstance(default, int) and isinstance(value, float) and not value.is_integer():
                raise UserError(f"{key}: expected an integer, got {value!r}. The default is {default}.")


def constructor_defaults(agent: str) -> dict[str, Any]:
    """What the constructors of an agent, its policy and its input-convex network take where a run's settings say
    nothing, as plain data: classes by name, other objects as they print."""
    algorithm = AGENTS[agent]
    policy = _defaults(algorithm.policy_aliases["MlpPolicy"])
    if algorithm is ICNNQ:
        network = _defaults(PICNN)
        policy["picnn_kwargs"] = {name: network[name] for name in LEFT_TO_PICNN}
    found = {**_defaults(algorithm), "policy_kwargs": policy}
    return {key: _plain(value) for key, value in found.items() if key not in _OWN_ARGUMENTS}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """In what the contents of two config.yml differ: the fields ``names``, and constructor arguments, given or left to
    their defaults. Files of early versions are silent about defaults; those are not compared then."""
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


def _schedule(key: str, value: Any) -> LinearSchedule | None:
    """lin_3e-4, as RL Baselines3 Zoo writes it: from 3e-4 at the start of the run straight to 0 at its end. None for
    another value, or a setting that has no schedule.

    Raises:
        UserError: what follows lin_ is not a positive number.
    """
    if key not in _SCHEDULED or not (isinstance(value, str) and value.startswith("lin_")):
        return None
    try:
        start = float(value.removeprefix("lin_"))
    except ValueError:
        start = np.nan
    if not 0 < start < np.inf:
        raise UserError(f"{key}: expected a positive number after lin_, for instance lin_3e-4, got {value!r}.")
    return LinearSchedule(start, 0.0, 1.0)


def _defaults(cls: type) -> dict[str, Any]:
    """Default values of the constructor's arguments, the most derived class's first."""
    return {name: p.default for name, p in parameters(cls).items() if p.default is not p.empty}


def _arguments(cls: type) -> set[str]:
    """Names of the constructor's arguments."""
    return set(parameters(cls))


def build_agent(config: Config, env: Any, tensorboard_log: str | None) -> BaseAlgorithm:
    """The agent that the configuration describes.

    Raises:
        UserError: a setting has a value that the constructor refuses.
    """
    algorithm = AGENTS[config.agent]
    check_device(config.device)
    _check_action_space(config.env, env.action_space)
    settings = deepcopy(config.settings)
    policy = settings.pop("policy", None) or default_policy(env)
    noise = settings.pop("exploration_noise", None) if issubclass(algorithm, TD3) else None
    if noise:
        shape = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, float(noise)))
    settings = {key: _schedule(key, value) or value for key, value in settings.items()}
    if settings.get("policy_kwargs") is not None:
        settings["policy_kwargs"] = _build_policy_kwargs(settings["policy_kwargs"])
    if isinstance(settings.get("train_freq"), list):
        settings["train_freq"] = tuple(settings["train_freq"])
    constraint = None if config.constraint == NO_CONSTRAINT else constraint_of(env)
    if config.constraint == NO_CONSTRAINT and issubclass(algorithm, ICNNQ) and constraint_of(env) is not None:
        settings["policy_kwargs"] = {**(settings.get("policy_kwargs") or {}), "trust_actions": True}  # it is meant
    if constraint is not None:
        settings["policy_kwargs"] = {**(settings.get("policy_kwargs") or {}), "constraint": constraint}
        policy = _constrained_policy(config, policy)
        if config.agent in ("ddpg", "td3", "sac"):
            settings["replay_buffer_class"] = ExecutedActionReplayBuffer
    if (size := buffer_size(config)) is not None:
        settings["buffer_size"] = size
    try:
        agent = algorithm(
            policy, env, seed=config.seed, device=config.device, tensorboard_log=tensorboard_log, **settings
        )
        check_agent(agent)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"agent {config.agent!r} on {config.env}: {error}") from error
    return agent


def buffer_size(config: Config) -> int | None:
    """Transitions that the replay buffer has room for, no more than the run has; None: an agent without one."""
    wanted = config.settings.get("buffer_size", _defaults(AGENTS[config.agent]).get("buffer_size"))
    return None if wanted is None else min(int(wanted), config.timesteps + config.n_envs)


def _constrained_policy(config: Config, policy: str) -> str | type[BasePolicy]:
    if config.agent not in _CONSTRAINED:
        return policy
    if policy != "MlpPolicy":
        raise UserError(
            f"--constraint: the command line trains agent {config.agent!r} under constraints on flat observations "
            f"only, and {config.env} needs {policy}. Use agent icnn, or the policies of icnn_rl.agents from Python."
        )
    return _CONSTRAINED[config.agent]


def check_device(device: str) -> None:
    """Whether torch has a device of this name.

    Raises:
        UserError: it has not.
    """
    if device == "auto":
        return
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device {device}: no such device. Expected cpu, cuda, cuda:1 or auto.") from error
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise UserError(f"--device {device}: torch finds {count} CUDA devices here. Use --device cpu or auto.")


def _check_action_space(env_id: str, space: Any) -> None:
    """SB3 refuses these too, in words that do not say what to do."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"--env {env_id}: the action space is unbounded ({space}); the agents need finite bounds. Give the "
            "environment some, for instance with gymnasium.wrappers.TransformAction."
        )


def default_policy(env: Any) -> str:
    """The policy name that fits the observations."""
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    if isinstance(env.observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(env.observation_space) else "MlpPolicy"


def _build_policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data to objects: solvers by name, classes by their name in torch.nn and torch.optim."""
    built = dict(given)
    for key in ("solver", "act_solver"):
        if isinstance(built.get(key), Mapping | str):
            built[key] = _build_solver(key, built[key])
    for key, (module, examples) in _CLASSES.items():
        name = built.get(key)
        if isinstance(name, str):
            if not isinstance(getattr(module, name, None), type):
                raise UserError(
                    f"policy_kwargs.{key}: {module.__name__} has no class {name!r}; for instance {examples}."
                )
            built[key] = getattr(module, name)
    return built


def _build_solver(key: str, given: Mapping[str, Any] | str) -> Any:
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", "ProjectedNewton")
    if name not in _SOLVERS:
        raise UserError(f"policy_kwargs.{key}.name: expected one of {', '.join(_SOLVERS)}, got {name!r}.")
    check_keys(options, {f.name for f in fields(_SOLVERS[name])}, f"solver {name}")
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
