"""Whether a constraint can read the observations that reach a policy: in the environment's own units, unstacked."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.vec_env import VecEnv, VecExtractDictObs, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from icnn_rl.constraints import ActionConstraint
from icnn_rl.constraints.observations import Parts
from icnn_rl.constraints.spaces import CHANGED_UNITS, two_observations

__all__ = ["check_observations"]

#: Attribute of the wrappers that append the last action: the size of their observations; 0: they do not.
_SIZE = "size_with_last_action"


def check_observations(
    constraint: ActionConstraint,
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    *,
    obs_size: int | None = None,
    trust_obs: bool = False,
    env: VecEnv | None = None,
) -> None:
    """Whether the constraint can read these observations: by their shape, by a trial, and by the wrappers of ``env``,
    where there is one: SB3's VecNormalize leaves the observation space as it was (but for images).

    Raises:
        ValueError: the observations are, or may be, in other units than the constraint's.
    """
    read = _parts_read(constraint, observation_space, action_space)
    if trust_obs or not constraint.depends_on_state:
        return
    for key in read:
        _check_part(key, observation_space if key is None else observation_space[key], obs_size)  # type: ignore[index]
    if env is not None:
        _check_wrappers(env, read)
        if constraint.needs_last_action:
            _check_last_action(constraint, env, observation_space)


def _check_part(key: str | None, part: spaces.Space[Any], obs_size: int | None) -> None:
    name = "the observation" if key is None else f"the part {key!r} of the observation"
    if not isinstance(part, spaces.Box) or len(part.shape) != 1:
        raise ValueError(
            f"constraint: {name} is {part}; expected a vector. Stacked frames and images are not what a constraint "
            "reads: keep the vector as a part of a Dict and name it with constraint.reading('...'), or set "
            "trust_obs=True."
        )
    if obs_size is not None and part.shape[0] != obs_size:
        raise ValueError(
            f"constraint: {name} has {part.shape[0]} numbers, the constraint is for obs_size={obs_size}. Are "
            "frames stacked, or is the last action missing?"
        )


def _check_wrappers(env: VecEnv, read: set[str | None]) -> None:
    advice = (
        "A constraint needs the environment's own units. Keep them: VecNormalize(norm_obs=False), or Dict observations "
        "of which norm_obs_keys leaves out the part that the constraint names with constraint.reading('...'). "
        "trust_obs=True overrides this check."
    )
    layer: Any = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize) and layer.norm_obs:
            keys = {None} if layer.norm_obs_keys is None else set(layer.norm_obs_keys)
            if keys & read:
                raise ValueError(f"constraint: it would read observations that VecNormalize has normalised. {advice}")
        if isinstance(layer, VecFrameStack):
            raise ValueError(
                "constraint: it would read the stacked frames of VecFrameStack, oldest first. Stack inside the "
                "environment and keep the present observation as a part of a Dict named with "
                "constraint.reading('...'), or write the constraint for the stacked vector, with indices from the end, "
                "and set trust_obs=True."
            )
        if isinstance(layer, VecExtractDictObs):  # what is read is a part of a Dict below
            read = {layer.key}
        layer = layer.venv
    for wrapper in CHANGED_UNITS:
        if any(layer.env_is_wrapped(wrapper)):
            raise ValueError(f"constraint: it would read observations that {wrapper.__name__} has changed. {advice}")


def _check_last_action(constraint: ActionConstraint, env: VecEnv, space: spaces.Space[Any]) -> None:
    """Whether a wrapper in or around the environments appends the last action, and observations still end with it."""
    # asked first: an attribute that is not there ends the workers of a SubprocVecEnv
    sizes = env.get_attr(_SIZE) if env.has_attr(_SIZE) else [0]
    if not all(sizes):
        raise ValueError(
            "constraint: it reads the last action, with which no wrapper ends the observation. Wrap the environment in "
            "icnn_rl.envs.ProjectAction with the same constraint, which appends it."
        )
    key = next(iter(constraint.last_action_keys), None)
    if isinstance(space, spaces.Dict) and key is not None:
        space = space[key]
    if isinstance(space, spaces.Box) and any(size != space.shape[0] for size in sizes):
        raise ValueError(
            f"constraint: it reads the last action, and observations of {space.shape[0]} numbers do not end with it: "
            f"they did with {max(sizes)}. Put the wrapper that changes them (TimeAwareObservation?) "
            "inside icnn_rl.envs.ProjectAction."
        )


def _parts_read(
    constraint: ActionConstraint, observation_space: spaces.Space[Any], action_space: spaces.Box
) -> set[str | None]:
    """The keys of a Dict that the constraint reads, {None} of other observations; found out by evaluating it once,
    which also finds indices and rows that do not fit."""
    n = get_action_dim(action_space)
    if not isinstance(observation_space, spaces.Dict):
        constraint.at(torch.from_numpy(two_observations(observation_space)), n)
        return {None}
    parts = Parts(observation_space.spaces, lambda part: torch.from_numpy(two_observations(part)))
    constraint.at(parts, n)
    return {*parts.read}
