"""The agent that a run folder ends with."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import Logger

from icnn_rl.agents import ICNNQ


def load(run: Path) -> ICNNQ:
    """The agent of the run's last checkpoint, with its transitions."""
    last = max((run / "checkpoints").iterdir())
    agent = ICNNQ.load(last / "model.zip", device="cpu")
    agent.load_replay_buffer(last / "replay_buffer.pkl")
    agent.set_logger(Logger(None, []))
    return agent
