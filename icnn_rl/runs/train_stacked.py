"""Train several seeds of a configuration in one process, each into its own run folder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList

from icnn_rl.agents import ICNNQ, StackedICNNQ
from icnn_rl.runs.checkpoint import save_checkpoint
from icnn_rl.runs.config.build import build_agent
from icnn_rl.runs.config.record import Config
from icnn_rl.runs.environments import make_env
from icnn_rl.runs.errors import UserError
from icnn_rl.runs.train import (
    fresh_folder,
    open_log,
    quiet_progress_bar,
    run_callbacks,
    save_model,
    write_config,
)

__all__ = ["train_stacked"]


def train_stacked(
    configs: Sequence[Config], folders: Sequence[Path], *, verbose: int = 0, progress_bar: bool = False
) -> list[BaseAlgorithm]:
    """Train from the start, all together; see :class:`icnn_rl.agents.StackedICNNQ`.

    Args:
        configs: one per run, equal except for the seed and what may differ between stacked learners.
        folders: one per run, none holding a run already. Each ends up as :func:`icnn_rl.runs.train.train_run`
            leaves it, and can be evaluated, plotted and resumed on its own.
        verbose: whether the first run prints its log.
        progress_bar: whether to show one.

    Raises:
        UserError: a folder holds something, a setting is wrong, or the runs cannot be stacked.
    """
    with contextlib.ExitStack() as cleanup:
        for folder in folders:
            cleanup.enter_context(fresh_folder(folder))
        stack = _build(configs, cleanup)
        seeds = [config.seed for config in configs]
        for i, (agent, config, folder) in enumerate(zip(stack.agents, configs, folders, strict=True)):
            write_config(config, folder, stacked_seeds=seeds)
            open_log(agent, folder, verbose if i == 0 else 0)
            cleanup.callback(agent.logger.close)
        _learn(stack, configs, folders, progress_bar)
        for i, folder in enumerate(folders):
            _save_one(stack, i, stack.agents[i], folder / "checkpoints")
        agents: list[BaseAlgorithm] = [*stack.unstack()]
        for model, folder in zip(agents, folders, strict=True):
            save_model(model, folder)
        return agents


def _build(configs: Sequence[Config], cleanup: contextlib.ExitStack) -> StackedICNNQ[Config]:
    """The stack, whose environments are closed by ``cleanup``."""

    def make(config: Config) -> ICNNQ:
        env = make_env(config.env, config.n_envs, config.seed, **config.surroundings)
        cleanup.callback(env.close)
        agent = build_agent(config, env, None)
        if not isinstance(agent, ICNNQ):
            raise UserError(f"--stacked: agent {config.agent!r} cannot be stacked; only icnn can. Leave out --stacked.")
        return agent

    try:
        return StackedICNNQ(make, configs)
    except ValueError as error:
        raise UserError(f"--stacked: {error}") from error


def _learn(stack: StackedICNNQ[Config], configs: Sequence[Config], folders: Sequence[Path], progress_bar: bool) -> None:
    with contextlib.ExitStack() as opened, quiet_progress_bar():
        callbacks = []
        for i, (config, folder) in enumerate(zip(configs, folders, strict=True)):
            own = run_callbacks(config, folder, functools.partial(_save_one, stack, i))
            callbacks.append(CallbackList(opened.enter_context(own)))
        try:
            stack.learn(configs[0].timesteps, callbacks, progress_bar=progress_bar, reset_num_timesteps=False)
        except (ValueError, FloatingPointError) as error:
            raise UserError(f"{folders[0].parent}: training stopped at step {stack.num_timesteps}. {error}") from error


def _save_one(stack: StackedICNNQ[Config], i: int, model: BaseAlgorithm, folder: Path) -> None:
    """A checkpoint from which learner ``i`` can go on alone."""
    with stack.lone(i):
        save_checkpoint(model, folder)
