"""Environments, wrappers and adapters of icnn_rl."""

if __name__ != "icnn_rl.envs":
    raise ImportError(
        f"This package was imported as {__name__!r}. Import it as icnn_rl.envs: under its bare folder name every "
        "class would exist twice. "
        "If icnn_rl.envs is missing, install the project (pip install -e .): the checkout has no symbolic links."
    )

import gymnasium as gym

from icnn_rl.envs.project_action import ProjectAction, VecProjectAction, WithConstraint

__all__ = ["ENVIRONMENTS", "ProjectAction", "VecProjectAction", "WithConstraint"]

#: Where each environment is made (gymnasium imports the module when it is asked for), with which arguments, and the
#: steps of an episode.
_MADE: dict[str, tuple[str, dict[str, float], int]] = {
    "Reacher-O03-v0": ("reacher:reacher_o", {"max_power": 0.3}, 50),
    "Reacher-O10-v0": ("reacher:reacher_o", {"max_power": 1.0}, 50),
    "Reacher-O30-v0": ("reacher:reacher_o", {"max_power": 3.0}, 50),
    "Reacher-L2-v0": ("reacher:reacher_l2", {}, 50),
    "HalfCheetah-O-v0": ("half_cheetah:half_cheetah_o", {}, 1000),
    "HalfCheetah-MA-v0": ("half_cheetah:half_cheetah_ma", {}, 1000),
    "HalfCheetah-Box-v0": ("half_cheetah:half_cheetah_box", {}, 1000),
    "Hopper-M-v0": ("hopper:hopper_m", {}, 1000),
    "Hopper-Box-v0": ("hopper:hopper_box", {}, 1000),
    "Walker2d-M-v0": ("walker2d:walker2d_m", {}, 1000),
    "Pendulum-Angle-v0": ("pendulum_angle:pendulum_angle", {}, 200),
    "Point-Discs-v0": ("point_discs:point_discs", {}, 200),
}

#: The identifiers for ``gymnasium.make``.
ENVIRONMENTS = tuple(f"icnn_rl/{name}" for name in _MADE)

for _name, (_place, _arguments, _steps) in _MADE.items():
    if f"icnn_rl/{_name}" not in gym.registry:
        gym.register(f"icnn_rl/{_name}", f"icnn_rl.envs.{_place}", kwargs=dict(_arguments), max_episode_steps=_steps)
