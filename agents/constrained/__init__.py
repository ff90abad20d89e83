"""Policies for Stable-Baselines3's own TD3, DDPG, SAC, PPO and A2C whose actions satisfy a constraint.

    raw action of SB3's network  ->  head: projection, or an OptNet layer  ->  action in C(s) and in the action space

The algorithms are untouched. The layer makes the constraint differentiable; a wrapper around the environment makes the
guarantee, since the algorithms add noise and warm-up samples after the policy. docs/constrained_policies.md says which
density and which action each loss sees.
"""

from icnn_rl.agents.constrained.base import check_agent
from icnn_rl.agents.constrained.callback import ConstraintCallback
from icnn_rl.agents.constrained.ppo import ConstrainedPPOPolicy
from icnn_rl.agents.constrained.sac import ConstrainedSACPolicy
from icnn_rl.agents.constrained.td3 import ConstrainedTD3Policy

__all__ = ["ConstrainedPPOPolicy", "ConstrainedSACPolicy", "ConstrainedTD3Policy", "ConstraintCallback", "check_agent"]
