"""A kind of constraint from somewhere else: named, parsed, projected on, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from icnn_rl.constraints import (
    ActionConstraint,
    box,
    parse_constraint,
    register_constraint,
    registry,
    unregister_constraint,
)
from icnn_rl.constraints.observations import Observation
from icnn_rl.sets import ConvexSet


@dataclass(frozen=True)
class _Budget(ActionConstraint):
    """sum_i a_i <= limit."""

    limit: float
    depends_on_state = False

    def at(self, obs: Observation, n: int) -> ConvexSet:
        like = self.observed(obs)
        return ConvexSet(G=like.new_ones(1, n), h=like.new_full((1,), self.limit))


def budget(limit: float) -> ActionConstraint:
    return _Budget(float(limit))


def _percent(name: str, value: object) -> float:
    if not isinstance(value, str) or not value.endswith("%"):
        raise ValueError(f"{name}: expected a percentage, got {value!r}.")
    return float(value[:-1]) / 100.0


@pytest.fixture
def registered() -> Iterator[None]:
    register_constraint("budget", readers={"limit": _percent})(budget)
    yield
    unregister_constraint("budget")


def test_a_kind_that_is_registered_is_parsed_and_projected_on(registered: None) -> None:
    both = parse_constraint("budget:limit=50% & box:lower=0")
    assert both == budget(0.5) & box(0.0)
    found = both.project(torch.zeros(1, 3), torch.tensor([[1.0, 1.0]]))
    assert torch.allclose(found.action, torch.tensor([[0.25, 0.25]]))
    with pytest.raises(ValueError, match=r"budget\.limit: expected a percentage, got 3"):
        parse_constraint("budget:limit=3")
    with pytest.raises(ValueError, match=r"unknown name 'budgte'\. Did you mean 'budget'.*Known: ball, box, budget"):
        parse_constraint("budgte:limit=1%")


def test_it_is_forgotten() -> None:
    register_constraint("budget")(budget)
    unregister_constraint("budget")
    with pytest.raises(ValueError, match=r"unknown name 'budget'"):
        parse_constraint({"budget": 1.0})
    with pytest.raises(ValueError, match=r"there is no constraint 'budget'\. Known: ball, box, control_barrier"):
        unregister_constraint("budget")


def test_names_are_identifiers_and_given_once(registered: None) -> None:
    register_constraint("budget", readers={"limit": _percent})(budget)  # once more: a module that is reloaded
    with pytest.raises(ValueError, match=r"there is a constraint 'budget' already"):
        register_constraint("budget")(lambda limit: budget(limit))
    with pytest.raises(ValueError, match=r"expected an identifier, such as 'speed_limit', got 'speed limit'"):
        register_constraint("speed limit")


def test_a_kind_of_an_installed_distribution_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoints([EntryPoint("thrift", f"{__name__}:budget", "icnn_rl.constraints")])
    monkeypatch.setattr(registry, "entry_points", lambda **params: installed.select(**params))
    monkeypatch.setattr("importlib.metadata.EntryPoint.load", lambda self: budget)
    with pytest.raises(ValueError, match=r"Known: .*rate_limit, thrift"):
        parse_constraint("thrif:limit=1")
    assert parse_constraint("thrift:limit=1") == budget(1.0)
    unregister_constraint("thrift")
