"""The agent that a run folder ends with."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import Logger

from icnn_rl.agents import ICNNQ
from icnn_rl.runs.checkpoint import latest_checkpoint, load_agent


def load(run: Path) -> ICNNQ:
    """The agent of the run's last checkpoint, with its transitions."""
    last = latest_checkpoint(run / "checkpoints")
    agent = load_agent(ICNNQ, last / "model.zip", device="cpu")
    assert isinstance(agent, ICNNQ)
    agent.load_replay_buffer(last / "replay_buffer.pkl")
    agent.set_logger(Logger(None, []))
    return agent
