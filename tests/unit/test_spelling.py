"""Hints at misspelt names."""

from __future__ import annotations

from icnn_rl.spelling import did_you_mean, nearest


def test_near_names_are_named_and_far_ones_are_not():
    known = {"gamma": 1, "game": 2, "tau": 3}
    assert did_you_mean("gama", known) == " Did you mean 'gamma'?"
    assert did_you_mean("gama", known, most=2) == " Did you mean 'gamma' or 'game'?"
    assert did_you_mean("learning_rate", known) == ""
    assert nearest(3, known) == []
