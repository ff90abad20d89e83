"""The greedy action of a trained critic, batch 256, 6 actions: accuracy and time, against the paper's Adam loop."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.clock import seconds as seconds_of
from icnn_rl.agents import ICNNQ
from icnn_rl.agents.icnn_q.critic import ICNNCritic
from icnn_rl.nn import PICNN
from icnn_rl.sets import Box
from icnn_rl.solvers import BundleEntropy, Problem, ProjectedGradient, ProjectedNewton, minimize
from icnn_rl.solvers.minimize import solve

BOX = Box(-1.0, 1.0)


class Reference:
    """The minimum in float64 and how much f varies: relative gap = (f(a) - f*) / (mean of f at random actions - f*)."""

    def __init__(self, net: PICNN, features: Tensor) -> None:
        self.energy = copy.deepcopy(net).double().bind(features.double(), "mean")
        solver = ProjectedNewton(tol=1e-13, max_steps=300)
        self.minimum = minimize(self.energy, solver, self.energy.start(), domain=BOX, adjoint=None).fun
        generator, shape = torch.Generator().manual_seed(0), self.energy.start().shape
        draws = [torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(300)]
        self.variation = torch.stack([self.energy(a.to(features.device)) for a in draws]).mean(0) - self.minimum

    @torch.no_grad()
    def relative_gap(self, action: Tensor) -> Tensor:
        return (self.energy(action.double()) - self.minimum) / self.variation


@pytest.fixture(scope="module")
def problem(agent: ICNNQ, observations: np.ndarray, device: str) -> tuple[PICNN, Tensor, Reference]:
    """The critic's network, its features of the states, normalised as they are in the agent, and the reference."""
    critic = agent.critic
    net = critic.net
    assert isinstance(net, PICNN)
    obs = torch.as_tensor(observations, dtype=torch.float32, device=device)
    with torch.no_grad():
        features = critic.extract_features(obs, critic.features_extractor)
        reference = Reference(net, features)
        _check(reference, critic, obs)
        return net, features, reference


def _check(reference: Reference, critic: ICNNCritic, obs: Tensor) -> None:
    """The reference is the function that the agent minimises, but for rounding."""
    actions = torch.rand(len(obs), critic.action_dim, generator=torch.Generator().manual_seed(1)).to(obs) * 2 - 1
    ours, critics = reference.energy(actions.double()), critic.bind(obs)(actions).double()
    worst = float((ours - critics).abs().max() / critics.std())
    assert worst < 1e-3, f"the reference is not the critic's f: it differs by {worst:.1e} of f's spread"


def adam_loop(net: PICNN, features: Tensor, steps: int = 1000, lr: float = 0.01) -> Tensor:
    """The paper's released inner loop: Adam on the action, the whole network at every step."""
    action = torch.zeros(len(features), net.y_features, requires_grad=True, device=features.device)
    optimiser = torch.optim.Adam([action], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        net(features, action).mean(0).sum().backward(inputs=[action])
        optimiser.step()
        with torch.no_grad():
            action.clamp_(-1.0, 1.0)
    return action.detach()


TARGET = "newton from averages, as in the target"
SOLVERS = {
    TARGET: ProjectedNewton(tol=3e-4, max_steps=6),
    "newton, to convergence": ProjectedNewton(),
    "accelerated gradient": ProjectedGradient(tol=1e-4),
    "adam, bound context, 100 steps": ProjectedGradient("adam", lr=0.05, max_steps=100),
    "bundle entropy, tau 0.01": BundleEntropy(entropy=0.01, max_steps=15),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_argmax(benchmark: BenchmarkFixture, problem: tuple[PICNN, Tensor, Reference], name: str, device: str) -> None:
    net, features, reference = problem

    def run() -> Tensor:
        with torch.inference_mode():
            energy = net.bind(features, "mean")
            if name == TARGET:
                return solve(Problem(energy, BOX, energy.start()), SOLVERS[name], energy.start(), averages=True).value
            return minimize(energy, SOLVERS[name], energy.start(), domain=BOX, adjoint=None, throw=False).value

    relative = reference.relative_gap(run().clone())
    milliseconds = min(seconds_of(run, device) for _ in range(10)) * 1e3
    share = float((relative <= 1e-4).float().mean())
    benchmark.extra_info.update(
        {"share of rows at 1e-4": share, "median": float(relative.median()), "cpu ms": milliseconds}
    )
    print(
        f"\n{name}: {milliseconds:.1f} ms with the context, relative gap median {relative.median():.1e}, "
        f"99th percentile {relative.quantile(0.99):.1e}, {100 * share:.1f} % of rows within 1e-4"
    )
    benchmark.pedantic(run, rounds=5)
    if name in (TARGET, "newton, to convergence"):
        assert share >= 0.99


def test_newton_against_the_papers_adam_loop(
    benchmark: BenchmarkFixture, problem: tuple[PICNN, Tensor, Reference], device: str
) -> None:
    """Target: at least 50 times faster."""
    net, features, reference = problem
    adam = reference.relative_gap(adam_loop(net, features))
    slow = min(seconds_of(lambda: adam_loop(net, features), device) for _ in range(2))
    newton = SOLVERS["newton, to convergence"]  # the one that is held to 1e-4 above

    def fast_solve() -> None:
        with torch.inference_mode():
            energy = net.bind(features, "mean")
            minimize(energy, newton, energy.start(), domain=BOX, adjoint=None, throw=False)

    fast = min(seconds_of(fast_solve, device) for _ in range(10))
    benchmark.extra_info.update({"adam loop ms": slow * 1e3, "newton ms": fast * 1e3, "ratio": slow / fast})
    print(
        f"\nAdam loop {slow * 1e3:.0f} ms (99th percentile {adam.quantile(0.99):.1e}), Newton {fast * 1e3:.1f} ms: "
        f"{slow / fast:.0f} times faster"
    )
    benchmark.pedantic(fast_solve, rounds=5)
    assert slow / fast >= 50
