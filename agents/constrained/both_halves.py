"""Whether the two halves of a constraint, the environment's wrapper and the agent's own, fit together."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from icnn_rl.agents.buffers import ExecutedActionReplayBuffer
from icnn_rl.constraints import ActionConstraint, ConstraintWarning

__all__ = ["check_halves"]

#: Attribute of the wrappers that project: the constraint that they enforce, by cloudpickle.
_ENFORCED = "enforced_constraint"

_BOTH = (
    "Both halves at once: env, kwargs = icnn_rl.constrain(env, constraint, {agent}). trust_actions=True: it is meant."
)


def check_halves(
    constraint: ActionConstraint | None,
    env: VecEnv | None,
    *,
    trust_actions: bool = False,
    algorithm: BaseAlgorithm | None = None,
) -> None:
    """Refuse an environment in which the agent's constraint would be on other numbers than its own actions, and warn,
    once for each, of a half that is missing, of two that differ, and of a buffer that stores what was not executed.

    Args:
        constraint: the agent's, or None.
        env: None: not known yet.
        trust_actions: there is nothing to check.
        algorithm: whose buffer is looked at.

    Raises:
        ValueError: a wrapper changes the actions between the agent and the environment.
    """
    if env is None or trust_actions:
        return
    enforced = _enforced(env)
    name = "ICNNQ" if algorithm is None else type(algorithm).__name__
    if constraint is not None:
        _check_actions(env)
    if constraint is None and enforced is not None:
        _warn(
            "a wrapper enforces one that the agent does not know: it learns as if all actions were allowed. Add "
            "policy_kwargs={'constraint': ...}, the wrapper's.",
            name,
        )
    elif constraint is not None and enforced is None:
        _warn(
            "the agent has one, and no wrapper enforces it: nothing is promised of what reaches the environment. Wrap "
            "it: icnn_rl.envs.ProjectAction(env, constraint).",
            name,
        )
    elif constraint is not None and enforced and not _same(constraint, other := pickle.loads(enforced)):
        _warn(
            f"the agent's and the wrapper's differ: {_short(constraint)} and {_short(other)}. Give both the same.",
            name,
        )
    if enforced is not None and isinstance(algorithm, OffPolicyAlgorithm) and not _stores_executed(algorithm):
        _warn(
            "the replay buffer stores the actions asked for, with rewards and next states of the projected ones. Add "
            "replay_buffer_class=icnn_rl.agents.ExecutedActionReplayBuffer (...Dict..., ...NStep...).",
            name,
        )


def _stores_executed(algorithm: OffPolicyAlgorithm) -> bool:
    kind: Any = algorithm.replay_buffer_class
    return isinstance(kind, type) and issubclass(kind, ExecutedActionReplayBuffer)


def _enforced(env: VecEnv) -> bytes | None:
    """The wrapper's constraint, pickled; None: there is no wrapper."""
    # asked first: an attribute that is not there ends the workers of a SubprocVecEnv
    found: bytes | None = env.get_attr(_ENFORCED)[0] if env.has_attr(_ENFORCED) else None
    return found


def _check_actions(env: VecEnv) -> None:
    layer: Any = env
    while isinstance(layer, VecEnvWrapper):
        layer = layer.venv
    changed = any(layer.env_is_wrapped(gym.ActionWrapper)) or any(
        inner.action_space != inner.unwrapped.action_space for inner in getattr(layer, "envs", ())
    )
    if changed:
        raise ValueError(
            "constraint: a wrapper of the environment (RescaleAction, ClipAction, ...) changes its actions, so that "
            "the agent's constraint would be on other numbers than the environment's. Leave it out: TD3, DDPG, SAC, "
            "ICNNQ and NAF scale actions to [-1, 1] themselves. trust_actions=True: the constraint is written for the "
            "actions as the agent sees them."
        )


def _same(one: ActionConstraint, other: ActionConstraint) -> bool:
    """Whether they are the same conjunction: by value; of functions that came from another process, by their code."""
    ours, theirs = (list(getattr(c, "parts", (c,))) for c in (one, other))
    return all(any(_equal(a, b) for b in theirs) for a in ours) and all(any(_equal(a, b) for b in ours) for a in theirs)


def _equal(one: ActionConstraint, other: ActionConstraint) -> bool:
    return one == other or bool(cloudpickle.dumps(one) == cloudpickle.dumps(other))


def _short(constraint: ActionConstraint) -> str:
    text = repr(constraint)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _warn(what: str, agent: str) -> None:
    warnings.warn(f"constraint: {what} {_BOTH.format(agent=agent)}", ConstraintWarning, stacklevel=4)
