"""What concavity costs: the critic's network and unrestricted ones, fitted to the same targets.

    python -m benchmarks.critic_fit RUN ... [--updates 8000]

States and actions are those of the replay buffer in the run's last checkpoint, nine tenths to fit and a tenth held out.
Targets are the agent's own in the end, r + gamma (1 - terminated) min_e Q'_e(s', a*'(s')) without noise, computed once.
Every network has two layers of 256 and the same batches of 256, Adam at 1e-3 falling linearly to 2e-5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.last_checkpoint import load
from icnn_rl.agents import ICNNQ
from icnn_rl.nn import PICNN


class Samples(NamedTuple):
    obs: Tensor
    actions: Tensor
    targets: Tensor

    def pick(self, index: Tensor) -> Samples:
        return Samples(*(part[index] for part in self))


class Concave(nn.Module):
    """-f(s, a) of ICNNQ's default shape, one member."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = PICNN(obs_dim, action_dim, (256, 256), (64,), activation="squareplus", context_norm=True)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        return -self.net.bind(obs)(actions)

    def clamp_weights_(self) -> None:
        self.net.clamp_weights_()


class Unrestricted(nn.Module):
    """A perceptron of both, with LayerNorm or as in TD3 without."""

    def __init__(self, obs_dim: int, action_dim: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (obs_dim + action_dim, 256):
            layers += [nn.Linear(width, 256), *([nn.LayerNorm(256)] if norm else []), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(256, 1))

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        value: Tensor = self.net(torch.cat((obs, actions), -1)).squeeze(-1)
        return value

    def clamp_weights_(self) -> None:
        """Nothing to keep."""


NETWORKS: dict[str, Callable[[int, int], Concave | Unrestricted]] = {
    "concave in the action (ICNNQ's)": Concave,
    "perceptron with LayerNorm": lambda o, n: Unrestricted(o, n, norm=True),
    "perceptron (TD3's)": lambda o, n: Unrestricted(o, n, norm=False),
}


@torch.no_grad()
def samples(agent: ICNNQ) -> Samples:
    """The replay buffer with targets."""
    buffer = agent.replay_buffer
    assert buffer is not None
    agent.target_policy_noise = 0.0
    parts = []
    for rows in torch.arange(buffer.size()).split(1024):
        data = buffer._get_samples(rows.numpy())
        target, _ = agent._target(data)
        parts.append((data.observations.float(), data.actions, target))
    return Samples(*(torch.cat(part) for part in zip(*parts, strict=True)))


def fit(net: Concave | Unrestricted, data: Samples, updates: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, updates)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        batch = data.pick(torch.randint(len(data.obs), (256,), generator=generator))
        loss = (net(batch.obs, batch.actions) - batch.targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.clamp_weights_()
        fall.step()


@torch.no_grad()
def error(net: Concave | Unrestricted, data: Samples) -> float:
    """Root mean square."""
    parts = (data.pick(rows) for rows in torch.arange(len(data.obs)).split(2048))
    return float(torch.cat([net(part.obs, part.actions) - part.targets for part in parts]).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--updates", type=int, default=8000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | targets' deviation | network | error, fitted | error, held out |\n|---|---|---|---|---|")
    for run in args.runs:
        data = samples(load(run))
        order = torch.randperm(len(data.obs), generator=torch.Generator().manual_seed(0))
        held, fitted = (data.pick(order[part]) for part in (slice(len(order) // 10), slice(len(order) // 10, None)))
        for name, make in NETWORKS.items():
            torch.manual_seed(0)
            net = make(data.obs.shape[1], data.actions.shape[1])
            fit(net, fitted, args.updates)
            errors = f"{error(net, fitted):.2f} | {error(net, held):.2f}"
            print(f"| {run.name} | {float(data.targets.std()):.1f} | {name} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
