"""Which agents may be stacked: what stacking supports, and what the agents must share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv

from icnn_rl.agents.icnn_q.algorithm import ICNNQ
from icnn_rl.agents.icnn_q.critic import ICNNCritic
from icnn_rl.agents.normalization import NormalizedExtractor, is_vector_space
from icnn_rl.solvers import ProjectedNewton

__all__ = ["check_stackable"]


def check_stackable(agents: Sequence[ICNNQ]) -> None:
    """Every agent alone, then all of them beside the first.

    Raises:
        ValueError: what is not supported, or differs; named.
    """
    if not agents:
        raise ValueError("rows: expected at least one, got none.")
    for i, agent in enumerate(agents):
        for name, supported, expected, got in _requirements(agent):
            if not supported:
                raise ValueError(f"{name}: stacked learning needs {expected}, agent {i} has {got}. Train it alone.")
    first = _shared(agents[0])
    for i, agent in enumerate(agents[1:], start=1):
        for name, value in _shared(agent).items():
            if value != first[name]:
                raise ValueError(
                    f"{name}: must be the same for all stacked agents; agent 0 has {first[name]}, agent {i} has "
                    f"{value}."
                )
    if len({id(_simulation(agent)) for agent in agents}) < len(agents):
        raise ValueError("env: two stacked agents share one. Make an environment for each.")


def _simulation(agent: ICNNQ) -> object:
    """What its steps change: SB3 wraps one and the same environment anew for every agent."""
    assert agent.env is not None
    base = agent.env.unwrapped
    return base.envs[0].unwrapped if isinstance(base, DummyVecEnv) else base


def _requirements(agent: ICNNQ) -> list[tuple[str, bool, str, str]]:
    """(name, whether it is met, what is needed, what there is), in the order in which they make sense."""
    if type(agent) is not ICNNQ:
        return [("agent", False, "ICNNQ", type(agent).__name__)]
    policy, critic, space, buffer = agent.policy, agent.critic, agent.observation_space, agent.replay_buffer
    solvers = (policy.solver, policy.act_solver)
    unit = getattr(agent.train_freq, "unit", None)
    wrapped = agent.get_vec_normalize_env()
    needs: list[tuple[str, bool, str, Any]] = [
        ("env", agent.env is not None, "an environment", agent.env),
        ("n_envs", agent.n_envs == 1, "one environment for each agent", agent.n_envs),
        ("env", wrapped is None, "environments without VecNormalize", wrapped),
        ("observation_space", is_vector_space(space), "a Box that is no image", space),
        ("constraint", policy.constraint is None, "none", policy.constraint),
        ("policy", type(critic) is ICNNCritic, "a critic of fully connected networks", type(critic).__name__),
        (
            "features_extractor_class",
            type(critic.features_extractor) in (FlattenExtractor, NormalizedExtractor),
            "FlattenExtractor or NormalizedExtractor",
            type(critic.features_extractor).__name__,
        ),
        ("n_steps", agent.n_steps == 1, "1-step returns", agent.n_steps),
        ("replay_buffer_class", type(buffer) is ReplayBuffer, "ReplayBuffer", type(buffer).__name__),
        ("optimize_memory_usage", not agent.optimize_memory_usage, "False", agent.optimize_memory_usage),
        (
            "action_noise",
            agent.action_noise is None,
            "an exploration",
            agent.action_noise,
        ),
        ("optimizer_class", _fused_adam(critic.optimizer), "Adam, fused", type(critic.optimizer).__name__),
        (
            "activation_fn",
            not list(policy.activation_fn().parameters()),  # PReLU's would be joined
            "a function without weights",
            policy.activation_fn.__name__,
        ),
        ("solver", all(type(one) is ProjectedNewton for one in solvers), "ProjectedNewton", solvers),
        ("train_freq", unit is TrainFrequencyUnit.STEP, "a number of steps", agent.train_freq),
    ]
    return [(name, met, expected, str(got)) for name, met, expected, got in needs]


def _fused_adam(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer) is torch.optim.Adam and all(group["fused"] for group in optimizer.param_groups)


def _shared(agent: ICNNQ) -> dict[str, object]:
    """What one batched update cannot tell apart."""
    assert isinstance(agent.critic, ICNNCritic)  # asked for by _requirements, as is a buffer
    net, replay = agent.critic.net, agent.replay_buffer
    assert replay is not None
    return {
        "observation_space": agent.observation_space,
        "action_space": agent.action_space,
        "policy_kwargs (the network)": f"{net}, strong_convexity={net.strong_convexity}",
        "policy_kwargs (the activation)": repr(net.activation.value),  # a module's tells its parameters
        "features_extractor_class": type(agent.critic.features_extractor).__name__,
        "solver": agent.policy.solver,
        "act_solver": agent.policy.act_solver,
        "batch_size": agent.batch_size,
        "buffer_size": agent.buffer_size,
        "learning_starts": agent.learning_starts,
        "train_freq": agent.train_freq,
        "gradient_steps": agent.gradient_steps,
        "policy_delay": agent.policy_delay,
        "target_members": agent.target_members,
        "target_window": agent.target_window,
        "device": agent.device,
        "num_timesteps": agent.num_timesteps,
        "n_updates": agent._n_updates,
        "replay buffer": (replay.pos, replay.full),
    }
