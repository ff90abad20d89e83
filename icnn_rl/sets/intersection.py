"""The intersection of convex sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from icnn_rl.sets.convex_set import ConvexSet
from icnn_rl.sets.rows import join, vector_of

__all__ = ["intersect"]


def intersect(sets: Sequence[ConvexSet], n: int) -> ConvexSet:
    """The intersection of sets in R^n, as one.

    Raises:
        ValueError: more than one has an ellipsoid.
    """
    ellipsoids = [s.ellipsoid for s in sets if s.ellipsoid is not None]
    if len(ellipsoids) > 1:
        raise ValueError(
            f"constraint: {len(ellipsoids)} balls or ellipsoids; one can be combined with linear constraints exactly. "
            "Keep one, or replace the others by linear rows."
        )
    lifted = sum(s.lifted for s in sets)
    parts: dict[str, Tensor | None] = {}
    for matrix, right in (("G", "h"), ("A", "b")):
        before, rows, sides = 0, [], []
        for s in sets:
            m, v = getattr(s, matrix), getattr(s, right)
            if m is not None:
                own, aux = m[..., :n], m[..., n:]
                aux = torch.nn.functional.pad(aux, (before, lifted - before - s.lifted))
                rows.append(torch.cat((own, aux), -1) if lifted else own)
                sides.append(v)
            before += s.lifted
        parts[matrix], parts[right] = (join(rows, -2), join(sides, -1)) if rows else (None, None)
    for name, pick, missing in (("lb", torch.maximum, -torch.inf), ("ub", torch.minimum, torch.inf)):
        own_bound: Tensor | None = None
        aux_bounds: list[Tensor] = []
        like = next((t for s in sets for t in (s.G, s.lb, s.ub) if isinstance(t, Tensor)), torch.empty(0))
        for s in sets:
            bound = getattr(s, name)
            if bound is not None:
                bound = vector_of(bound, n + s.lifted, like)
                own = bound[..., :n]
                own_bound = own if own_bound is None else pick(own_bound, own)
            aux_bounds.append(like.new_full((s.lifted,), missing) if bound is None else bound[..., n:])
        if own_bound is None and lifted and any(bool(torch.isfinite(t).any()) for t in aux_bounds):
            own_bound = like.new_full((n,), missing)
        parts[name] = own_bound if own_bound is None or not lifted else join([own_bound, *aux_bounds], -1)
    return ConvexSet(**parts, lifted=lifted, ellipsoid=ellipsoids[0] if ellipsoids else None)
