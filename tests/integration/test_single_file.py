"""The agent in one file: it stands on its own, and is the package's."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icnn_rl.nn import PICNN
from icnn_rl.sets import Box
from icnn_rl.solvers import ProjectedNewton, minimize

FILE = Path(__file__).resolve().parents[2] / "examples" / "icnnq_single_file.py"


@pytest.fixture(scope="module")
def single() -> Any:
    spec = importlib.util.spec_from_file_location("icnnq_single_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_needs_torch_numpy_and_gymnasium_alone() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) <= 350
    found = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name
    }
    assert found - sys.stdlib_module_names == {"gymnasium", "numpy", "torch"}


def make_twins(single: Any) -> tuple[Any, PICNN]:
    """Its critic, and the package's network with the same weights."""
    torch.manual_seed(0)
    critic = single.Critic(5, 3, single.Recipe(width=16, hidden=8))
    net = PICNN(
        5, 3, (16, 16), (8,), activation="squareplus", context_activation=torch.nn.ReLU(), context_norm=True, ensemble=2
    )
    with torch.no_grad():
        for own, theirs in zip(net.context, critic.context, strict=True):
            own.weight.copy_(theirs.weight)
            own.bias.copy_(theirs.bias)  # type: ignore[union-attr]
        for norm, shift in zip(net.norms, critic.shifts, strict=True):  # type: ignore[arg-type]
            norm.bias.copy_(shift.normal_())
        # the package orders its heads: gates of y, offsets, gates of z, linear, constant, quadratic
        net.heads.weight.copy_(critic.heads.weight)
        net.heads.bias.copy_(critic.heads.bias)  # type: ignore[union-attr]
        net.passthrough[0].weight.copy_(critic.W)
        net.nonneg[0].weight.copy_(critic.v)
    return critic, net


def test_its_critic_is_the_packages_network(single: Any) -> None:
    critic, net = make_twins(single)
    x, a = torch.randn(9, 5), 2 * torch.rand(9, 3) - 1
    torch.testing.assert_close(critic(x)(a), net.bind(x).member_values(a))
    for own, theirs in zip(critic(x).derivatives(a), net.bind(x, "mean").value_grad_hessian(a), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_its_greedy_action_is_the_minimiser(single: Any) -> None:
    critic, net = make_twins(single)
    x = torch.randn(200, 5)
    with torch.no_grad():
        found = single.greedy(critic(x), steps=20, tolerance=1e-6)
        energy = net.bind(x, "mean")
        best = minimize(energy, ProjectedNewton(tol=1e-6), torch.zeros(200, 3), domain=Box(-1.0, 1.0))
        assert float((energy(found) - best.fun).abs().max()) < 1e-4


def test_its_initial_weights_have_the_packages_moments(single: Any) -> None:
    from icnn_rl.nn.activations import resolve_activation
    from icnn_rl.nn.initialisation import non_negative_moments

    expected = non_negative_moments(64, resolve_activation("squareplus"))
    np.testing.assert_allclose(single.non_negative_moments(64), (expected.mean, expected.std, expected.bias), rtol=0.02)


def test_it_trains(single: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = single.Recipe("Pendulum-v1", 150, 0, 50, 16, width=16, hidden=8, evaluate_every=75, episodes=1)
    curve = single.train(recipe)
    assert [step for step, _ in curve] == [75, 150]
    assert all(np.isfinite(value) and value < 0 for _, value in curve)
    assert capsys.readouterr().out.count("return") == 2
