"""The agents that runs know, and the policies with which they learn under a constraint."""

from __future__ import annotations

from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from icnn_rl.agents import ICNNQ, NAF, ConstrainedPPOPolicy, ConstrainedSACPolicy, ConstrainedTD3Policy

__all__ = ["AGENTS", "CONSTRAINED_POLICIES"]

AGENTS: dict[str, type[BaseAlgorithm]] = {"icnn": ICNNQ, "naf": NAF, "ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}

#: The policies that take a constraint; those of ICNNQ and NAF always do.
CONSTRAINED_POLICIES: dict[str, type[BasePolicy]] = {
    "ddpg": ConstrainedTD3Policy,
    "td3": ConstrainedTD3Policy,
    "sac": ConstrainedSACPolicy,
    "ppo": ConstrainedPPOPolicy,
}
