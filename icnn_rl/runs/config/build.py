"""Build the agent that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from icnn_rl import solvers
from icnn_rl.agents import ICNNQ, ExecutedActionReplayBuffer, check_agent
from icnn_rl.runs.arguments import argument_defaults, check_keys
from icnn_rl.runs.config.agents import AGENTS, CONSTRAINED_POLICIES
from icnn_rl.runs.config.check import read_schedule
from icnn_rl.runs.config.record import Config
from icnn_rl.runs.device import check_device
from icnn_rl.runs.environments import NO_CONSTRAINT, constraint_of
from icnn_rl.runs.errors import UserError

__all__ = ["buffer_size", "build_agent", "default_policy"]

_SOLVERS = {
    name: getattr(solvers, name) for name in ("ProjectedNewton", "ProjectedGradient", "BundleEntropy", "ProximalBundle")
}

#: Settings of a policy that are classes, given by name.
_CLASSES = {"activation_fn": (nn, "ReLU, ELU, Tanh"), "optimizer_class": (torch.optim, "Adam, AdamW, SGD")}


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
    settings = {key: read_schedule(key, value) or value for key, value in settings.items()}
    if settings.get("policy_kwargs") is not None:
        settings["policy_kwargs"] = _build_policy_kwargs(settings["policy_kwargs"])
    if isinstance(settings.get("train_freq"), list):
        settings["train_freq"] = tuple(settings["train_freq"])
    constraint = None if config.constraint == NO_CONSTRAINT else constraint_of(env)
    if config.constraint == NO_CONSTRAINT and issubclass(algorithm, ICNNQ) and constraint_of(env) is not None:
        settings["policy_kwargs"] = {
            **(settings.get("policy_kwargs") or {}),
            "trust_actions": True,
        }  # not an oversight: the user asked for it
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
    """Size of the replay buffer, capped at the length of the run; None: the agent has none."""
    wanted = config.settings.get("buffer_size", argument_defaults(AGENTS[config.agent]).get("buffer_size"))
    return None if wanted is None else min(int(wanted), config.timesteps + config.n_envs)


def _constrained_policy(config: Config, policy: str) -> str | type[BasePolicy]:
    if config.agent not in CONSTRAINED_POLICIES:
        return policy
    if policy != "MlpPolicy":
        raise UserError(
            f"--constraint: the command line trains agent {config.agent!r} under constraints on flat observations "
            f"only, and {config.env} needs {policy}. Use agent icnn, or the policies of icnn_rl.agents from Python."
        )
    return CONSTRAINED_POLICIES[config.agent]


def _check_action_space(env_id: str, space: Any) -> None:
    """SB3 refuses these too, but does not say what to do."""
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"--env {env_id}: the action space is unbounded ({space}); the agents need finite bounds. Give the "
            "environment some, for instance with gymnasium.wrappers.TransformAction."
        )


def default_policy(env: Any) -> str:
    """The policy name that fits the observations."""
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
