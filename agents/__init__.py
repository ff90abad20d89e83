"""Stable-Baselines3 agents whose critic is concave in the action, so that the greedy action is a convex programme."""

if __name__ != "icnn_rl.agents":
    raise ImportError(
        f"This package was imported as {__name__!r}. Import it as icnn_rl.agents: under its bare folder name every "
        "class would exist twice. "
        "If icnn_rl.agents is missing, install the project (pip install -e .): the checkout has no symbolic links."
    )

from icnn_rl.agents.buffers import (
    ExecutedActionDictReplayBuffer,
    ExecutedActionNStepReplayBuffer,
    ExecutedActionReplayBuffer,
)
from icnn_rl.agents.constrained import (
    ConstrainedPPOPolicy,
    ConstrainedSACPolicy,
    ConstrainedTD3Policy,
    ConstraintCallback,
    check_agent,
)
from icnn_rl.agents.icnn_q import ICNNQ, Greedy, ICNNQPolicy, StackedICNNQ
from icnn_rl.agents.naf import NAF, NAFPolicy

__all__ = [
    "ICNNQ",
    "NAF",
    "ConstrainedPPOPolicy",
    "ConstrainedSACPolicy",
    "ConstrainedTD3Policy",
    "ConstraintCallback",
    "ExecutedActionDictReplayBuffer",
    "ExecutedActionNStepReplayBuffer",
    "ExecutedActionReplayBuffer",
    "Greedy",
    "ICNNQPolicy",
    "NAFPolicy",
    "StackedICNNQ",
    "check_agent",
]
