"""ICNNQ: Q-learning in continuous action spaces with an input-convex critic and no actor."""

from icnn_rl.agents.icnn_q.algorithm import ICNNQ
from icnn_rl.agents.icnn_q.critic import Greedy
from icnn_rl.agents.icnn_q.policy import ICNNQPolicy
from icnn_rl.agents.icnn_q.stacked import StackedICNNQ

__all__ = ["ICNNQ", "Greedy", "ICNNQPolicy", "StackedICNNQ"]
