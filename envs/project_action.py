"""The guarantee: whatever action comes, the action that reaches the environment satisfies a constraint."""

from __future__ import annotations

import pickle
from typing import Any, NoReturn

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from icnn_rl.constraints import ActionConstraint, Fallback
from icnn_rl.constraints.control_barrier import warn_of_step
from icnn_rl.constraints.spaces import CHANGED_UNITS, as_box
from icnn_rl.envs.action_sets import Array
from icnn_rl.envs.last_action import ending_with, last_action_key, with_last_action
from icnn_rl.envs.projector import Executed, Projector, checked_actions

__all__ = ["ProjectAction", "VecProjectAction", "WithConstraint", "constrained"]

#: Attributes that VecProjectAction does not leave to the environments.
_OWN = ("constraint", "enforced_constraint", "size_with_last_action")


class ProjectAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Sends the nearest action that satisfies ``constraint`` and the bounds of the action space.

    Agents add exploration noise, draw warm-up samples at random and smooth targets after their policy: a constraint
    that is to hold in the environment is enforced here. For the array that is sent, in the action space's dtype, every
    row g^T a <= h of the constraint holds to

        (g^T a - h) / ||g|| <= tol,

    and the bounds of the action space hold exactly. Actions that do so already are sent as they came, bit for bit.
    Others are projected in float64, after those beyond 10^4 widths of the action space have been cut there; where
    rounding to the dtype leaves the set by more than tol / 2, the action is pulled towards the interior of the set by
    just enough. (A set without an interior, an equation say, is met as nearly as the dtype can.)

    The constraint reads the observation of the last reset or step, so this wrapper goes inside those that change
    observations; it refuses to sit outside NormalizeObservation, RescaleObservation and FrameStackObservation. It is on
    the environment's own actions: outside of a wrapper that changes actions on their way, as RescaleAction does, the
    guarantee would be one on other numbers than those that arrive, and is refused too.
    If ``constraint.needs_last_action``, observations, which have to be vectors, or the part of a Dict that
    ``rate_limit(...).reading(key)`` names, end with the n numbers executed last
    (after a reset 0, or the nearest that the action space has), and the observation space says so.

    Args:
        env: actions in a Box of one dimension.
        constraint: in the units of the environment's actions and observations.
        fallback: what to send where no action satisfies the constraint: "least_violation", the action whose largest
            violation is smallest; "error"; a backup action, n numbers; or a function that gets the observations as
            a (1, d) float64 tensor (a mapping of tensors for Dict observations) and gives (1, n) or (n,). What it gives
            is clipped to the action space.
        tol: > 0, in the units of the actions.
        trust_actions: the constraint is written for the actions as they come in here, whatever becomes of them inside.

    Attributes:
        constraint: what came.
        executed_action: (n,) the last action sent; after a reset 0, or the nearest that the action space has.

    ``info`` of every step holds

    - "action/executed": the array sent,
    - "constraint/violation_before": largest violation of what came, the bounds of the action space included,
    - "constraint/violation": of what was sent; the bounds hold and are not counted. -inf: there is no row,
    - "constraint/moved": the distance between the two,
    - "constraint/status": a :class:`icnn_rl.Status`; PRIMAL_INFEASIBLE where the set is empty; MAX_STEPS or NUMERICAL
      where the nearest action was not found and another allowed one was sent,
    - "constraint/active": whether the action sent lies on a border of the constraint, to 1e-6 of the action's width;
      not where the set is empty.

    Raises:
        ValueError: a wrong argument, a constraint that does not fit the environment, an environment whose actions are
            projected already; in ``step`` an action that is not finite or has the wrong shape.
        EmptySetError: in ``step``, if the set is empty and ``fallback`` is "error".

    Example:
        >>> env = ProjectAction(gym.make("Pendulum-v1"), box(-0.5, 0.5))
        >>> _ = env.reset(seed=0)
        >>> env.step(np.array([2.0], np.float32))[-1]["action/executed"]
        array([0.5], dtype=float32)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        constraint: ActionConstraint,
        fallback: Fallback = "least_violation",
        tol: float = 1e-6,
        trust_actions: bool = False,
    ) -> None:
        gym.Wrapper.__init__(self, env)
        _check_units(env)
        if not trust_actions:
            _check_actions(env)
        self.constraint = constraint
        self._projector = Projector(constraint, env.action_space, fallback, tol)
        RecordConstructorArgs.__init__(
            self, constraint=constraint, fallback=self._projector.fallback, tol=tol, trust_actions=trust_actions
        )
        self._trust_actions = trust_actions
        self.executed_action = self._projector.rest
        self._obs: Any = None
        self._key = last_action_key(constraint, env.observation_space)
        if constraint.needs_last_action:
            self.observation_space = with_last_action(env.observation_space, as_box(env.action_space), self._key)
        self._projector.try_on(self.observation_space)
        _warn_of_step(constraint, getattr(env.unwrapped, "dt", None))

    @property
    def size_with_last_action(self) -> int:
        """Numbers of an observation that ends with the last action; 0: it does not."""
        return _size_with_last_action(self)

    @property
    def enforced_constraint(self) -> bytes:
        """The constraint by cloudpickle, which other processes can be told whatever functions are in it; under a name
        that only wrappers have that enforce it."""
        return _as_bytes(self.constraint)

    @property
    def settings(self) -> dict[str, Any]:
        """``fallback``, ``tol`` and ``trust_actions``, as they came."""
        projector = self._projector
        return {"fallback": projector.fallback, "tol": projector.tol, "trust_actions": self._trust_actions}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self.executed_action = self._projector.rest
        return self._noted(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        given = checked_actions(action, self.executed_action.shape)
        if self._obs is None:
            raise gym.error.ResetNeeded("Cannot call env.step() before calling env.reset()")
        executed = self._projector(self._obs, given[None])
        report = executed.info(0)  # before the environment can write on the action
        obs, reward, terminated, truncated, info = self.env.step(executed.action[0])
        self.executed_action = report["action/executed"].copy()
        return self._noted(obs), reward, terminated, truncated, {**info, **report}

    def _noted(self, obs: Any) -> Any:
        """The observation as it is passed on; the constraint reads a copy of it."""
        if self.constraint.needs_last_action:
            obs = ending_with(obs, self.executed_action, self.observation_space, self._key)
        self._obs = self._projector.read(obs, batched=False)
        return obs


class WithConstraint(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The environment as it is, with its ``constraint`` as an attribute; nothing is enforced."""

    def __init__(self, env: gym.Env[Any, Any], constraint: ActionConstraint) -> None:
        RecordConstructorArgs.__init__(self, constraint=constraint)
        gym.Wrapper.__init__(self, env)
        self.constraint = constraint


def constrained(
    env: gym.Env[Any, Any], constraint: ActionConstraint, *, project: bool = True, **settings: Any
) -> gym.Env[Any, Any]:
    """The environment in a :class:`ProjectAction`, or as it is with the constraint as an attribute."""
    if project:
        return ProjectAction(env, constraint, **settings)
    return WithConstraint(env, constraint)


class VecProjectAction(VecEnvWrapper):
    """:class:`ProjectAction` for all environments of a Stable-Baselines3 VecEnv: one batched projection a step.

    Everything holds as it does there, for every environment, and every environment's info holds the same entries. The
    first action of an episode is judged by the episode's first observation; info["terminal_observation"] ends with the
    last action where observations do. Goes inside VecNormalize and VecFrameStack, and refuses to sit outside.

    Args:
        venv: actions in a Box of one dimension.
        constraint, fallback, tol, trust_actions: see :class:`ProjectAction`; observations have B rows, one for
            each environment, also those that a fallback function gets.

    Attributes:
        constraint: what came.
        executed_action: (B, n) the last actions sent; at the start of an episode as for ProjectAction.
    """

    def __init__(
        self,
        venv: VecEnv,
        constraint: ActionConstraint,
        fallback: Fallback = "least_violation",
        tol: float = 1e-6,
        trust_actions: bool = False,
    ) -> None:
        if not isinstance(venv, VecEnv):
            raise ValueError(f"venv: expected a VecEnv, got {type(venv).__name__}; for one environment: ProjectAction.")
        _check_vec_units(venv)
        if not trust_actions:
            _check_vec_actions(venv)
        projector = Projector(constraint, venv.action_space, fallback, tol)
        space = venv.observation_space
        self._key = last_action_key(constraint, space)
        if constraint.needs_last_action:
            space = with_last_action(space, as_box(venv.action_space), self._key)
        super().__init__(venv, observation_space=space)
        self.constraint = constraint
        self._projector = projector
        projector.try_on(self.observation_space)
        # asked first: an attribute that is not there ends the workers of a SubprocVecEnv
        _warn_of_step(constraint, venv.get_attr("dt")[0] if venv.has_attr("dt") else None)
        self.executed_action = np.tile(projector.rest, (venv.num_envs, 1))
        self._obs: Any = None
        self._executed: Executed | None = None

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self.executed_action = np.tile(self._projector.rest, (self.num_envs, 1))
        noted: VecEnvObs = self._noted(obs)
        return noted

    def step_async(self, actions: Array) -> None:
        given = checked_actions(actions, self.executed_action.shape)
        if self._obs is None:
            raise gym.error.ResetNeeded("Cannot call env.step() before calling env.reset()")
        self._executed = self._projector(self._obs, given)
        self.venv.step_async(self._executed.action.copy())

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        executed = self._executed
        assert executed is not None, "step_wait before step_async"
        for row, info in enumerate(infos):
            info.update(executed.info(row))
            if "terminal_observation" in info and self.constraint.needs_last_action:
                info["terminal_observation"] = self._extended(info["terminal_observation"], executed.action[row])
        self.executed_action = np.where(dones[:, None], self._projector.rest, executed.action)
        return self._noted(obs), rewards, dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """What tells of the constraint is this wrapper's, whatever the environments have; else as in
        Stable-Baselines3."""
        if attr_name in _OWN:
            return [getattr(self, attr_name) for _ in self._get_indices(indices)]
        return super().get_attr(attr_name, indices)

    def has_attr(self, attr_name: str) -> bool:
        return attr_name in _OWN or super().has_attr(attr_name)

    @property
    def enforced_constraint(self) -> bytes:
        """As of :class:`ProjectAction`."""
        return _as_bytes(self.constraint)

    @property
    def size_with_last_action(self) -> int:
        """As of :class:`ProjectAction`."""
        return _size_with_last_action(self)

    def _extended(self, obs: Any, action: Array) -> Any:
        return ending_with(obs, action, self.observation_space, self._key)

    def _noted(self, obs: Any) -> Any:
        """The observations as they are passed on; the constraint reads a copy."""
        if self.constraint.needs_last_action:
            obs = self._extended(obs, self.executed_action)
        self._obs = self._projector.read(obs, batched=True)
        return obs


def _as_bytes(constraint: ActionConstraint) -> bytes:
    """Nothing where that cannot be."""
    try:
        return bytes(cloudpickle.dumps(constraint))
    except (TypeError, AttributeError, pickle.PicklingError):
        return b""


def _size_with_last_action(wrapper: ProjectAction | VecProjectAction) -> int:
    if not wrapper.constraint.needs_last_action:
        return 0
    space: Any = wrapper.observation_space
    return as_box(space if wrapper._key is None else space[wrapper._key]).shape[0]


def _warn_of_step(constraint: ActionConstraint, step: object) -> None:
    if isinstance(step, int | float | np.floating) and not isinstance(step, bool):
        warn_of_step(constraint, float(step))


def _check_units(env: gym.Env[Any, Any]) -> None:
    inner: Any = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, CHANGED_UNITS):
            _refuse(type(inner).__name__)
        if isinstance(inner, ProjectAction):
            _refuse_second()
        inner = inner.env


def _check_vec_units(venv: VecEnv) -> None:
    inner: Any = venv
    while isinstance(inner, VecEnvWrapper):
        if isinstance(inner, VecFrameStack) or (isinstance(inner, VecNormalize) and inner.norm_obs):
            _refuse(type(inner).__name__)
        if isinstance(inner, VecProjectAction):
            _refuse_second()
        inner = inner.venv
    for wrapper in CHANGED_UNITS:
        if any(venv.env_is_wrapped(wrapper)):
            _refuse(wrapper.__name__)
    if any(venv.env_is_wrapped(ProjectAction)):
        _refuse_second()


def _check_actions(env: gym.Env[Any, Any]) -> None:
    inner: Any = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.ActionWrapper):
            _refuse_actions(type(inner).__name__)
        inner = inner.env
    if env.action_space != env.unwrapped.action_space:
        _refuse_actions(f"a wrapper that makes {env.action_space} of {env.unwrapped.action_space}")


def _check_vec_actions(venv: VecEnv) -> None:
    if any(venv.env_is_wrapped(gym.ActionWrapper)):
        _refuse_actions("an ActionWrapper (RescaleAction, ClipAction, ...)")
    inner: Any = venv.unwrapped
    for env in getattr(inner, "envs", ()):
        _check_actions(env)


def _refuse_actions(wrapper: str) -> NoReturn:
    raise ValueError(
        f"env: the constraint is on the environment's own actions, and inside {wrapper} changes them on their way. "
        "Leave it out: TD3, DDPG, SAC, ICNNQ and NAF scale actions to [-1, 1] themselves. trust_actions=True: the "
        "constraint is written for the actions as they come in here."
    )


def _refuse_second() -> NoReturn:
    raise ValueError(
        "env: its actions are projected already. Two projections in turn are none on both sets: make the environment "
        "without the first (project=False for those of icnn_rl) and wrap it once in the intersection, first & second."
    )


def _refuse(wrapper: str) -> NoReturn:
    raise ValueError(
        f"env: the constraint reads raw observations, and {wrapper} changes them. Put the projection inside it: "
        f"{wrapper}(ProjectAction(env, constraint))."
    )
