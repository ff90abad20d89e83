"""KEY=VALUE from the command line."""

from __future__ import annotations

import pytest

from icnn_rl.runs.arguments import parse_overrides
from icnn_rl.runs.errors import UserError


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["learning_rate=3e-4"], {"learning_rate": 3e-4}),
        (["learning_rate=1E-3"], {"learning_rate": 1e-3}),
        (["batch_size=64"], {"batch_size": 64}),
        (["use_sde=true"], {"use_sde": True}),
        (["policy=CnnPolicy"], {"policy": "CnnPolicy"}),
        (["buffer_size=null"], {"buffer_size": None}),
        (["policy_kwargs.hidden=[64, 32]"], {"policy_kwargs": {"hidden": [64, 32]}}),
        (["a.b.c=1", "a.b.d=2", "a.e=3"], {"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
        (["a=1", "a=2"], {"a": 2}),
        (["a.b=1", "a=2"], {"a": 2}),
        (["a=x=y"], {"a": "x=y"}),
        (["kw={eps: 1e-5, betas: [9e-1, 0.99]}"], {"kw": {"eps": 1e-5, "betas": [0.9, 0.99]}}),
    ],
)
def test_overrides_are_read_as_yaml(items, expected):
    assert parse_overrides(items) == expected


@pytest.mark.parametrize("item", ["learning_rate", "=3", ""])
def test_an_override_needs_a_key_and_a_value(item):
    with pytest.raises(UserError, match=r"expected key=value, for instance --set learning_rate=3e-4"):
        parse_overrides([item])


@pytest.mark.parametrize(
    "text", ["[1, 2", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/tuple [1, 2]"]
)
def test_an_override_is_data_only(text):
    with pytest.raises(UserError, match="not valid YAML"):
        parse_overrides([f"learning_rate={text}"])
