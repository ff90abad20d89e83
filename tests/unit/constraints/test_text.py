"""Constraints as text and YAML: the same objects as from code, and errors that name what is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml

import icnn_rl.constraints as c
from icnn_rl.constraints import parse_constraint

POWER = c.power_limit("8:11", 20.0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("power_limit:velocity_index=8:11,max_power=20", POWER),
        (" power_limit : velocity_index = 8:11 , max_power = 2e1 ", POWER),
        ({"power_limit": {"velocity_index": "8:11", "max_power": 20}}, POWER),
        ("power_limit:velocity_index=-3:,max_power=1", c.power_limit(slice(-3, None), 1.0)),
        ("power_limit:velocity_index=[8,9,2],max_power=3e-4", c.power_limit([8, 9, 2], 3e-4)),
        (
            "power_limit:velocity_index=1:3,max_power=1,motoring_only=true",
            c.power_limit("1:3", 1.0, motoring_only=True),
        ),
        ("rate_limit:max_change=[0.1,3e-4]", c.rate_limit([0.1, 3e-4])),
        ("box:lower=-1,upper=[0.5,inf]", c.box(-1.0, [0.5, math.inf])),
        ("box", c.box()),
        ("l1_ball:radius=1,weights=[1,2]", c.l1_ball(1.0, [1.0, 2.0])),
        ("ball:radius=1,center=[0,1]", c.ball(1.0, [0.0, 1.0])),
        ("ellipsoid:M=[[2,0],[0,1]],size=3", c.ellipsoid([[2.0, 0.0], [0.0, 1.0]], 3.0)),
        ("linear:G=[[1,2]],h=[3]", c.linear([[1.0, 2.0]], [3.0])),
        ("box:upper=1,reading=joints", c.box(upper=1.0).reading("joints")),
        (
            "power_limit:velocity_index=8:11,max_power=20 & rate_limit:max_change=0.1",
            POWER & c.rate_limit(0.1),
        ),
        ([{"box": {"upper": 1}}, "rate_limit:max_change=1"], c.box(upper=1.0) & c.rate_limit(1.0)),
        ({"box": {"upper": 1}, "rate_limit": {"max_change": "3e-4"}}, c.box(upper=1.0) & c.rate_limit(3e-4)),
    ],
)
def test_is_the_same_constraint(spec: Any, expected: c.ActionConstraint) -> None:
    assert parse_constraint(spec) == expected


def test_reads_yaml_files() -> None:
    spec = yaml.safe_load('- power_limit: {velocity_index: "8:11", max_power: 2e1}\n- rate_limit: {max_change: 0.1}')
    assert parse_constraint(spec) == POWER & c.rate_limit(0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("power_limt:max_power=1", "unknown name 'power_limt'. Did you mean 'power_limit'.*Known: ball, box"),
        ("box:uper=1", "box: unknown key 'uper'. Did you mean 'upper'.*lower, upper, reading"),
        ("power_limit:velocity_index=0:1", "max_power: missing"),
        ("power_limit:weights=1,max_power=1", "weights: expected a function of the observation, got 1"),
        ("power_limit:weights=nowhere:f,max_power=1", "power_limit.weights: cannot import nowhere"),
        ("no_such_module:limit", "constraint: cannot import no_such_module .*working folder"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        (f"{__name__}:rows", "expected .*:rows to be a constraint, got function"),
        ("power_limit:velocity_index=a:b,max_power=1", "velocity_index: expected a slice"),
        ("control_barrier:alpha=1", "missing 1 required"),
        ("control_barier:alpha=1", "unknown name 'control_barier'. Did you mean 'control_barrier'"),
        ("box:upper", "expected NAME:key=value"),
        ("box:upper=", "expected NAME:key=value"),
        ("box:upper=1,upper=2", "given twice"),
        ("box:upper=[1", "cannot read upper"),
        ("box:upper=x", "box.upper: expected numbers"),
        ("box:upper=!!python/object/apply:os.getcwd []", "cannot read upper"),
        ("ball", "missing 1 required"),
        ("box:upper=1 & ", "unknown name ''"),
        ("", "unknown name ''"),
        ([], "at least one"),
        ({}, "at least one"),
        (3, "expected text, a mapping or a list, got int"),
        ([3], "expected text, a mapping or a list, got int"),
        ({"box": 3}, "box: expected a mapping of arguments, got 3"),
        ({"power_limit": {"velocity_index": 491, "max_power": 1}}, r'write "8:11", or \[491\]'),
        ("power_limit:velocity_index=2,max_power=1", r"or \[2\] for the one place 2"),
        ({"linear": 3}, "linear: expected a mapping of arguments, got 3"),
        ({"power_limit": {"velocity_index": 491.5, "max_power": 1}}, "velocity_index: expected a slice"),
        ("power_limit:velocity_index=0:1,max_power=1,motoring_only=1", "motoring_only: expected True or False"),
    ],
)
def test_says_what_is_wrong(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_constraint(spec)


def rows(obs: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(obs), 1, 2).to(obs)


def wall(obs: torch.Tensor) -> c.Barrier:
    return c.Barrier(obs[:, :1], torch.zeros_like(obs[:, :1]), rows(obs))


LIMIT = c.l1_ball(0.5)


def test_functions_and_constraints_of_a_module() -> None:
    here = __name__
    barrier = c.control_barrier(wall, (2.0, 3.0))
    assert parse_constraint(f"control_barrier:barrier={here}:wall,alpha=[2,3]") == barrier
    assert parse_constraint({"control_barrier": {"barrier": f"{here}:wall", "alpha": [2, 3]}}) == barrier
    assert parse_constraint(f"{here}:LIMIT & linear:G={here}:rows,h=[1]") == LIMIT & c.linear(rows, [1.0])
    assert parse_constraint([f"{here}:LIMIT", "box:upper=1"]) == LIMIT & c.box(upper=1.0)


def test_the_only_argument_needs_no_name() -> None:
    assert parse_constraint({"rate_limit": 0.5}) == c.rate_limit(0.5)
    assert parse_constraint([{"ball": 2}, {"l1_ball": 1.5}]) == c.ball(2.0) & c.l1_ball(1.5)
    assert parse_constraint(yaml.safe_load("rate_limit: [0.5, 1]")) == c.rate_limit([0.5, 1.0])
