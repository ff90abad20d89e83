"""The agents whose critic is concave in the action: what holds for one is asked of all."""

from __future__ import annotations

from typing import Any

from icnn_rl.agents import ICNNQ, NAF

#: Each with the networks of its smallest policy.
CONCAVE: dict[type[ICNNQ], dict[str, Any]] = {
    ICNNQ: {"context": (16,), "hidden": (8,)},
    NAF: {"context": (16,)},
}


def small(agent: type[ICNNQ], **given: Any) -> dict[str, Any]:
    """``policy_kwargs`` of a small policy; what is ``given`` comes first, and widths that it has not are left out."""
    networks = CONCAVE[agent]
    return {**networks, **{key: value for key, value in given.items() if key != "hidden" or key in networks}}
