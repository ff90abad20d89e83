"""What reaches the environment while agents train under constraints.

    python -m benchmarks.constraints.violations [--steps 3500] [--agents td3,sac,ppo,icnn] [--out FILE]

Every agent trains on every task with its defaults but for small networks (64-64), warm-up, noise and updates included.
A wrapper right above the bare environment sees the float32 actions that arrive and judges them in float64 by formulas
written here, from the state of the simulation, not by the constraint that was enforced: the largest (g_i^T a - h_i) /
||g_i|| over the rows. For the safety tasks the crossing of the limit on the state counts too. The last line takes the
enforcing wrapper away.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

from icnn_rl.agents import (
    ICNNQ,
    ConstrainedPPOPolicy,
    ConstrainedSACPolicy,
    ConstrainedTD3Policy,
    ExecutedActionReplayBuffer,
)
from icnn_rl.envs import ProjectAction
from icnn_rl.envs.pendulum_angle import BRAKING, DT, GRAVITY, LIMIT, TORQUE
from icnn_rl.runs.config.provenance import versions

TOLERANCE = 1e-6

Formula = Callable[[Any, np.ndarray], float]


def _worst(rows: np.ndarray, h: np.ndarray | float, a: np.ndarray) -> float:
    norm = np.linalg.norm(rows, axis=-1)
    held = norm > 0
    return float(((rows @ a - h)[held] / norm[held]).max(initial=-np.inf))


def power(joints: slice, limit: float) -> Formula:
    """sum_i |w_i a_i| <= limit: the row of every pattern of signs."""

    def violation(env: Any, a: np.ndarray) -> float:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(a))))
        return _worst(signs * env.data.qvel[joints], limit, a)

    return violation


def motoring(joints: slice, limit: float) -> Formula:
    """sum_i max(w_i a_i, 0) <= limit, with w as observed, within +-10: the row of every set of motors."""

    def violation(env: Any, a: np.ndarray) -> float:
        chosen = np.array(list(itertools.product((0.0, 1.0), repeat=len(a))))
        return _worst(chosen * np.clip(env.data.qvel[joints], -10.0, 10.0), limit, a)

    return violation


def lifting(env: Any, a: np.ndarray) -> float:
    """w_1 a_1 sin(t_1 + t_2 + t_3) + w_4 a_4 sin(t_4 + t_5 + t_6) <= 5."""
    w, t = env.data.qvel[3:9], env.data.qpos[3:9]
    row = np.array([[w[0] * np.sin(t[:3].sum()), 0, 0, w[3] * np.sin(t[3:].sum()), 0, 0]])
    return _worst(row, 5.0, a)


def angle(env: Any, a: np.ndarray) -> float:
    """The rate after the step stays within the distances to the limits over (kappa + dt)."""
    drift, gain = env.rate + DT * GRAVITY * np.sin(env.angle), DT * TORQUE
    rows = np.array([[gain], [-gain]])
    room = np.array([LIMIT - env.angle, LIMIT + env.angle]) / (BRAKING + DT)
    return _worst(rows, room - np.array([drift, -drift]), a)


TASKS: dict[str, Formula] = {
    "Reacher-O10": power(slice(0, 2), 1.0),
    "Reacher-L2": lambda env, a: float(np.linalg.norm(a) - np.sqrt(0.05)),
    "HalfCheetah-O": power(slice(3, 9), 20.0),
    "HalfCheetah-MA": lifting,
    "HalfCheetah-Box": lambda env, a: float(np.abs(a).max() - 0.5),
    "Hopper-M": motoring(slice(3, 6), 10.0),
    "Walker2d-M": motoring(slice(3, 9), 10.0),
    "Pendulum-Angle": angle,
    "Point-Discs": lambda env, a: -np.inf,  # judged by the state: no disc, no wall is entered
}


class Witness(gym.Wrapper[Any, Any, Any, Any]):
    """Judges what arrives."""

    def __init__(self, env: gym.Env[Any, Any], formula: Formula) -> None:
        super().__init__(env)
        self.formula = formula
        self.steps = self.violations = self.crossings = 0
        self.worst = self.deepest = -np.inf

    def step(self, action: Any) -> Any:
        assert action.dtype == np.float32
        found = self.formula(self.env.unwrapped, action.astype(np.float64))
        result = self.env.step(action)
        self.steps += 1
        self.worst = max(self.worst, found)
        self.violations += found > TOLERANCE
        depth = result[-1].get("constraint/state_violation")
        if depth is not None:
            self.deepest = max(self.deepest, depth)
            self.crossings += depth > TOLERANCE
        return result


def make_agent(name: str, env: gym.Env[Any, Any], constraint: Any, steps: int) -> Any:
    """With its defaults, small; the warm-up is a tenth of the run."""
    kwargs = {"constraint": constraint, "net_arch": [64, 64]}
    common: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    if name == "icnn":
        return ICNNQ("MlpPolicy", env, **common)
    if name == "ppo":
        return PPO(ConstrainedPPOPolicy, env, n_steps=512, **common)
    common.update(learning_starts=steps // 10, buffer_size=steps, replay_buffer_class=ExecutedActionReplayBuffer)
    if name == "sac":
        return SAC(ConstrainedSACPolicy, env, **common)
    n = env.action_space.shape[0]
    return TD3(ConstrainedTD3Policy, env, action_noise=NormalActionNoise(np.zeros(n), np.full(n, 0.1)), **common)


def run(agent: str, task: str, steps: int, *, project: bool = True) -> tuple[Witness, dict[str, float]]:
    """Train, and count."""
    bare = gym.make(f"icnn_rl/{task}-v0", project=False)
    witness = Witness(bare, TASKS[task])
    constraint = bare.get_wrapper_attr("constraint")
    env = ProjectAction(witness, constraint) if project else witness
    begin = time.perf_counter()
    make_agent(agent, env, constraint, steps).learn(steps)
    return witness, {"seconds": time.perf_counter() - begin}


def line(agent: str, task: str, witness: Witness) -> str:
    state = f"{witness.crossings} ({witness.deepest:.1e})" if np.isfinite(witness.deepest) else ""
    worst = f"{witness.worst:.1e}" if np.isfinite(witness.worst) else ""
    return f"| {agent} | {task} | {witness.steps} | {witness.violations} | {worst} | {state} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--agents", default="td3,sac,ppo,icnn")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| agent | task | steps | above 1e-6 | largest, of rows | limits crossed (deepest) |",
        "|---|---|---|---|---|---|",
    ]
    total = np.zeros(3, int)
    print("\n".join(lines), flush=True)
    for agent, task in itertools.product(args.agents.split(","), args.tasks.split(",")):
        witness, _ = run(agent, task, args.steps)
        total += (witness.steps, witness.violations, witness.crossings)
        lines.append(line(agent, task, witness))
        print(lines[-1], flush=True)
    lines.append(f"| all | | {total[0]} | {total[1]} | | {total[2]} |")
    witness, _ = run("td3", "HalfCheetah-O", 1000, project=False)
    lines.append(line("td3, wrapper taken away", "HalfCheetah-O", witness))
    lines += ["", ", ".join(f"{name} {version}" for name, version in versions().items())]
    print("\n".join(lines[-4:]))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
