"""ICNNQ in one file: Q-learning with continuous actions and no actor, for people who want to read it all at once.

    python examples/icnnq_single_file.py --env Hopper-v5 --steps 100000 --seed 0

It needs torch and gymnasium[mujoco], nothing else. The recipe is that of the package's ICNNQ, without its compiled
code, constraints and checks: expect a third of its speed.

The critic is Q_e(s, a) = -f_e(s, a), e = 1 .. E, each f_e convex in the action (Amos, Xu and Kolter, Input Convex
Neural Networks, ICML 2017, equation 3, with one layer):

    u = context(s)                                       two layers of ReLU( LayerNorm( . ) )
    p = W^(y) (a * g(u)) + c(u),    z = ( p + sqrt(p^2 + 1) ) / 2
    f = sum_j v_j softplus(w_j(u)) z_j + l(u) . a + k(u) + 1/2 sum_i ( softplus(q_i(u)) + m ) a_i^2,        v >= 0

so that the greedy action, argmin of mean_e f_e over [-1, 1]^n, is a convex programme: Newton's method finds it for the
whole batch. Targets are TD3's: clipped noise on the greedy action, the least of the members' values, slow targets.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Recipe:
    env: str = "Hopper-v5"
    steps: int = 100_000
    seed: int = 0
    warm_up: int = 10_000  # random actions before the first update
    batch: int = 256
    rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    exploration: float = 0.2
    target_noise: float = 0.2
    noise_clip: float = 0.5
    members: int = 2
    width: int = 256
    hidden: int = 64
    evaluate_every: int = 10_000
    episodes: int = 5


class Linear(nn.Module):
    """E linear maps side by side: (B, in) or (E, B, in) -> (E, B, out)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight.mT)


class Energy:
    """f(s, .) of every member for a batch of states: what is left of the network once the states are known."""

    def __init__(self, heads: Tensor, critic: Critic) -> None:
        n, h = critic.n, critic.hidden
        self.gate, self.offset, w, self.linear, self.constant, q = heads.split([n, h, h, n, 1, n], dim=-1)
        self.W = critic.W
        self.weights = F.softplus(w) * critic.v.clamp(min=0.0)
        self.quadratic = F.softplus(q) + critic.curvature

    def __call__(self, a: Tensor) -> Tensor:
        """f_e(a): (B, n) -> (E, B)."""
        p = (a * self.gate) @ self.W.mT + self.offset
        z = 0.5 * (p + (p * p + 1).sqrt())
        return (
            (self.weights * z).sum(-1) + ((self.linear + 0.5 * self.quadratic * a) * a).sum(-1) + self.constant[..., 0]
        )

    def derivatives(self, a: Tensor, blur: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Mean over the members of f, its gradient and its Hessian: (B,), (B, n), (B, n, n).

        With ``blur``, the variance that a spread of the action gives to p (E, B, h): of f averaged over that spread.
        """
        square = 1.0 + blur
        p = (a * self.gate) @ self.W.mT + self.offset
        root = (p * p + square).sqrt()
        f = (self.weights * 0.5 * (p + root)).sum(-1)
        f = f + ((self.linear + 0.5 * self.quadratic * a) * a).sum(-1) + self.constant[..., 0]
        slope, bend = self.weights * 0.5 * (1 + p / root), self.weights * 0.5 * square / root**3
        gradient = (slope @ self.W) * self.gate + self.linear + self.quadratic * a
        J = self.W.unsqueeze(1) * self.gate.unsqueeze(-2)  # dp/da (E, B, h, n)
        hessian = J.mT @ (bend.unsqueeze(-1) * J) + torch.diag_embed(self.quadratic)
        return f.mean(0), gradient.mean(0), hessian.mean(0)

    def spread(self) -> Tensor:
        """The variance of p where the action is uniform on [-1, 1]^n."""
        return (self.gate.square() / 3) @ self.W.square().mT


class Critic(nn.Module):
    def __init__(self, observation: int, n: int, recipe: Recipe) -> None:
        super().__init__()
        e, width, h = recipe.members, recipe.width, recipe.hidden
        self.n, self.hidden, self.curvature = n, h, 1e-3
        self.context = nn.ModuleList([Linear(e, observation, width), Linear(e, width, width)])
        self.shifts = nn.ParameterList([torch.zeros(e, 1, width) for _ in self.context])
        self.heads = Linear(e, width, 2 * n + 2 * h + 1 + n)
        self.W = nn.Parameter(torch.empty(e, h, n).uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n)))
        mean, std, bias = non_negative_moments(h)
        sigma = math.sqrt(math.log(1 + (std / mean) ** 2))
        self.v = nn.Parameter(torch.empty(e, 1, h).log_normal_(math.log(mean) - sigma**2 / 2, sigma))
        with torch.no_grad():  # gates start at one, the bowl mild, values near zero
            for part, start in zip(
                self.heads.bias.split([n, h, h, n, 1, n], -1), (1, 0, 0.5413, 0, bias, -2), strict=True
            ):
                part.fill_(start)

    def forward(self, s: Tensor) -> Energy:
        u = s
        for layer, shift in zip(self.context, self.shifts, strict=True):
            u = F.relu(F.layer_norm(layer(u), (layer.bias.shape[-1],)) + shift)
        return Energy(self.heads(u), self)


def non_negative_moments(fan_in: int) -> tuple[float, float, float]:
    """Mean and deviation of weights >= 0, and the bias, that keep the scale of a signal (Hoedt and Klambauer, NeurIPS
    2023): inputs are g of standard normals with correlation 1/2, the moments of g from samples."""
    x = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (0.5 * (p + (p * p + 1).sqrt()) for p in (x[0], 0.5 * x[0] + math.sqrt(0.75) * x[1]))
    mean, variance = float(one.mean()), float(one.var())
    covariance = float(((one - mean) * (other - mean)).mean())
    weight = math.sqrt(0.5 / (fan_in * (variance + (fan_in - 1) * covariance)))
    return weight, math.sqrt(0.5 / (fan_in * (variance + mean**2))), -fan_in * weight * mean


def box_step(g: Tensor, H: Tensor, low: Tensor, high: Tensor, turns: int = 3) -> Tensor:
    """argmin of g . d + 1/2 d . H d over low <= d <= high, nearly: coordinates that would leave are held on the bound
    and the others solved for, a few times over."""
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    moved = -g / diagonal
    for _ in range(turns):
        d = moved.clamp(low, high)
        held = d != moved
        free = ~held
        system = torch.where(free.unsqueeze(-1) & free.unsqueeze(-2), H, 0.0) + torch.diag_embed(held.to(H.dtype))
        fixed = torch.where(held, d, 0.0)
        right = torch.where(held, d, -g - (H @ fixed.unsqueeze(-1)).squeeze(-1))
        d = torch.linalg.solve(system, right)
        moved = d - (g + (H @ d.unsqueeze(-1)).squeeze(-1)) / diagonal
    return d.clamp(low, high)


@torch.no_grad()
def greedy(energy: Energy, steps: int = 6, tolerance: float = 3e-4) -> Tensor:
    """argmin over [-1, 1]^n of mean_e f_e for every state of the batch: (B, n).

    Three Newton steps on averages of f over the box, over a third of it and over a tenth, come first: they see bends
    that f itself shows only once they are crossed. Then Newton's method on f, a step halved where f does not fall,
    until the gap, which convexity certifies, is small beside the variation of f over the box.
    """
    a = torch.zeros_like(energy.linear[0])
    spread = energy.spread()
    for share in (1.0, 0.1, 0.01):
        _, g, H = energy.derivatives(a, share * spread)
        a = (a + box_step(g, H, -1 - a, 1 - a)).clamp(-1, 1)
    f, g, H = energy.derivatives(a)
    length = torch.ones_like(f)
    for _ in range(steps):
        gap = (g * a + g.abs()).sum(-1)  # f(a) - f(b) <= g . (a - b), and the largest of these over the box
        variation = 2 * (g.abs() + 0.25 * H.diagonal(dim1=-2, dim2=-1)).sum(-1)
        open_ = gap > tolerance * variation
        if not bool(open_.any()):
            break
        trial = (a + length.unsqueeze(-1) * box_step(g, H, -1 - a, 1 - a)).clamp(-1, 1)
        f_trial, g_trial, H_trial = energy.derivatives(trial)
        better = open_ & (f_trial <= f)
        length = torch.where(better, 1.0, 0.5 * length)
        a, f = torch.where(better.unsqueeze(-1), trial, a), torch.where(better, f_trial, f)
        g = torch.where(better.unsqueeze(-1), g_trial, g)
        H = torch.where(better[:, None, None], H_trial, H)
    return a


class Normalizer:
    """Observations at zero mean and unit variance over all so far, cut off at ten deviations."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.square = 0, np.zeros(size), np.zeros(size)

    def update(self, s: np.ndarray) -> None:
        self.count += 1
        off = s - self.mean
        self.mean += off / self.count
        self.square += off * (s - self.mean)

    def __call__(self, s: np.ndarray) -> Tensor:
        std = np.sqrt(self.square / max(self.count, 1) + 1e-8) if self.count > 1 else 1.0
        return torch.as_tensor(((s - self.mean) / std).clip(-10, 10), dtype=torch.float32)


class Replay:
    def __init__(self, capacity: int, observation: int, n: int) -> None:
        self.rows = np.zeros((capacity, 2 * observation + n + 2))
        self.parts = np.cumsum([observation, observation, n, 1])
        self.size = 0

    def add(self, *parts: np.ndarray | float) -> None:
        self.rows[self.size % len(self.rows)] = np.concatenate([np.ravel(part) for part in parts])
        self.size += 1

    def sample(self, batch: int, random: np.random.Generator) -> list[np.ndarray]:
        chosen = self.rows[random.integers(0, min(self.size, len(self.rows)), batch)]
        return np.split(chosen, self.parts, axis=1)


def update(
    critic: Critic,
    target: Critic,
    adam: torch.optim.Optimizer,
    normal: Normalizer,
    data: list[np.ndarray],
    recipe: Recipe,
) -> None:
    s, s_next = normal(data[0]), normal(data[1])
    a, r, ended = (torch.as_tensor(part, dtype=torch.float32) for part in data[2:])
    with torch.no_grad():
        energy = target(s_next)
        noise = (recipe.target_noise * torch.randn_like(a)).clamp(-recipe.noise_clip, recipe.noise_clip)
        value = (-energy((greedy(energy) + noise).clamp(-1, 1))).amin(0)
        y = r[:, 0] + recipe.gamma * (1 - ended[:, 0]) * value
    loss = (-critic(s)(a) - y).square().sum(0).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    with torch.no_grad():
        critic.v.clamp_(min=0.0)  # convex in the action, whatever the step was
        for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
            slow.lerp_(fast, recipe.tau)


class Actions:
    """Between [-1, 1]^n and the environment's units."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.low, self.high = space.low, space.high

    def __call__(self, scaled: np.ndarray) -> np.ndarray:
        return (self.low + 0.5 * (scaled + 1) * (self.high - self.low)).clip(self.low, self.high).astype(np.float32)


def evaluate(critic: Critic, normal: Normalizer, recipe: Recipe) -> float:
    env = gym.make(recipe.env)
    to_env, total = Actions(env.action_space), 0.0
    for episode in range(recipe.episodes):
        s, over = env.reset(seed=10_000 + episode)[0], False
        while not over:
            with torch.no_grad():
                a = greedy(critic(normal(s).unsqueeze(0)), steps=20, tolerance=1e-5)[0].numpy()
            s, r, terminated, truncated, _ = env.step(to_env(a))
            total, over = total + float(r), terminated or truncated
    return total / recipe.episodes


def train(recipe: Recipe) -> list[tuple[int, float]]:
    """Returns the mean return of every evaluation, by step."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    env = gym.make(recipe.env)
    to_env, n = Actions(env.action_space), env.action_space.shape[0]
    size = env.observation_space.shape[0]
    critic = Critic(size, n, recipe)
    target = copy.deepcopy(critic)
    adam = torch.optim.Adam(critic.parameters(), lr=recipe.rate)
    normal, replay = Normalizer(size), Replay(min(recipe.steps, 1_000_000), size, n)
    curve: list[tuple[int, float]] = []
    began = time.time()
    s, _ = env.reset(seed=recipe.seed)
    normal.update(s)
    for step in range(1, recipe.steps + 1):
        if step <= recipe.warm_up:
            a = random.uniform(-1, 1, n)
        else:
            with torch.no_grad():
                a = greedy(critic(normal(s).unsqueeze(0)), steps=20, tolerance=1e-5)[0].numpy()
        a = (a + recipe.exploration * random.standard_normal(n)).clip(-1, 1)
        s_next, r, terminated, truncated, _ = env.step(to_env(a))
        replay.add(s, s_next, a, float(r), float(terminated))  # a time limit is no end
        s = env.reset()[0] if terminated or truncated else s_next
        normal.update(s)
        if step > recipe.warm_up:
            update(critic, target, adam, normal, replay.sample(recipe.batch, random), recipe)
        if step % recipe.evaluate_every == 0:
            curve.append((step, evaluate(critic, normal, recipe)))
            print(f"{step:8d} steps  return {curve[-1][1]:9.1f}  {time.time() - began:7.0f} s", flush=True)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    train(Recipe(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
