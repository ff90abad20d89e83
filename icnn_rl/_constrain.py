"""Both halves of a constraint in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from icnn_rl.agents.buffers import ExecutedActionDictReplayBuffer, ExecutedActionReplayBuffer
from icnn_rl.agents.constrained import ConstrainedPPOPolicy, ConstrainedSACPolicy, ConstrainedTD3Policy
from icnn_rl.agents.icnn_q.algorithm import ICNNQ
from icnn_rl.constraints import ActionConstraint, Fallback
from icnn_rl.envs.project_action import ProjectAction, VecProjectAction

__all__ = ["Constrained", "constrain"]

_POLICIES: dict[type[BaseAlgorithm], type[Any]] = {
    TD3: ConstrainedTD3Policy,  # DDPG too, which derives from it
    SAC: ConstrainedSACPolicy,
    PPO: ConstrainedPPOPolicy,
    A2C: ConstrainedPPOPolicy,
}


class Constrained(NamedTuple):
    """env: the environment, which executes allowed actions only; kwargs: what the agent's constructor needs to know,
    ``policy`` and ``policy_kwargs`` among it."""

    env: Any
    kwargs: dict[str, Any]


def constrain(
    env: gym.Env[Any, Any] | VecEnv | str,
    constraint: ActionConstraint,
    agent: type[BaseAlgorithm] = ICNNQ,
    *,
    policy_kwargs: dict[str, Any] | None = None,
    fallback: Fallback = "least_violation",
    tol: float = 1e-6,
    trust_actions: bool = False,
) -> Constrained:
    """Both halves of a constraint: the wrapper that makes the guarantee, and the arguments by which the agent knows.

    Args:
        env: an environment, its id, or a Stable-Baselines3 VecEnv.
        constraint: in the environment's units.
        agent: ICNNQ, NAF, or Stable-Baselines3's TD3, DDPG, SAC, PPO or A2C, or a class that derives from one.
        policy_kwargs: further ones of the agent's.
        fallback: for states in which no action is allowed; of both halves, see :class:`icnn_rl.envs.ProjectAction`. A
            function of the observations must take batches of any size.
        tol, trust_actions: see :class:`icnn_rl.envs.ProjectAction`.

    Returns:
        env and kwargs, for ``agent(env=env, **kwargs)``.

    Raises:
        ValueError: an argument is wrong, or the halves do not fit together.

    Example:
        >>> from icnn_rl.constraints import l1_ball
        >>> env, kwargs = constrain("Pendulum-v1", l1_ball(1.0), SAC)
        >>> model = SAC(env=env, **kwargs)
    """
    if not (isinstance(agent, type) and issubclass(agent, (ICNNQ, *_POLICIES))):
        known = ", ".join(("ICNNQ", "NAF", "DDPG", *(kind.__name__ for kind in _POLICIES)))
        raise ValueError(f"agent: expected one of the classes {known} or one that derives from them, got {agent!r}.")
    for name in ("constraint", "fallback", "trust_actions"):
        if name in (policy_kwargs or {}):
            raise ValueError(f"policy_kwargs: leave {name} out, it is an argument of constrain.")
    env = gym.make(env) if isinstance(env, str) else env
    wrap: Any = VecProjectAction if isinstance(env, VecEnv) else ProjectAction
    wrapped = wrap(env, constraint, fallback=fallback, tol=tol, trust_actions=trust_actions)
    own = {"constraint": constraint, "fallback": fallback}
    if trust_actions:
        own["trust_actions"] = True
    space = wrapped.observation_space
    kwargs: dict[str, Any] = {"policy": _policy(agent, space), "policy_kwargs": {**(policy_kwargs or {}), **own}}
    if issubclass(agent, TD3 | DDPG | SAC):
        as_dict = isinstance(space, spaces.Dict)
        kwargs["replay_buffer_class"] = ExecutedActionDictReplayBuffer if as_dict else ExecutedActionReplayBuffer
    return Constrained(wrapped, kwargs)


def _policy(agent: type[BaseAlgorithm], space: spaces.Space[Any]) -> Any:
    if issubclass(agent, ICNNQ):
        return (
            "MultiInputPolicy"
            if isinstance(space, spaces.Dict)
            else "CnnPolicy"
            if is_image_space(space)
            else "MlpPolicy"
        )
    return next(policy for kind, policy in _POLICIES.items() if issubclass(agent, kind))
