"""A set in the coordinates of its ellipsoid, where a flat one is a ball and a far one is near."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from icnn_rl.eager import transformed
from icnn_rl.qp.solution import ActiveSet
from icnn_rl.sets.ellipsoid import Ellipsoid, times, trace
from icnn_rl.sets.minimum import OF_ROWS, Minimum
from icnn_rl.sets.rows import join, vector_of

if TYPE_CHECKING:
    from icnn_rl.sets.convex_set import ConvexSet

__all__ = ["Axes", "Noise", "back", "is_flat", "own_axes"]

_FLAT = 1e6  # condition number of M from which on the set is looked at in the ellipsoid's own coordinates
_FAR = 1e4  # likewise distance of the origin from the centre, in radii
_LONG = 1e3  # of its least one: the width of an ellipsoid where it has none, and nothing else says how far to look
_LONG_AXIS = 10.0  # axes that are longer than so many usual lengths end there
_ROUNDING = 64.0  # units of eps, of the terms of a sum, that it may be off

#: Sizes of the terms that the right-hand sides of rows and of equations were made of; None: of the sides themselves.
Noise = tuple[Tensor | None, Tensor | None]


class Axes(NamedTuple):
    """A set in an ellipsoid's coordinates: the set of the x, bounds as rows, with center + W x in the original one, of
    which the ellipsoid is sum_i d_i x_i^2 <= 1 with d_i in [0, 1]; W; and the noise in the rows."""

    set: ConvexSet
    W: Tensor
    noise: Noise


def is_flat(C: ConvexSet) -> bool:
    """Whether the ellipsoid is so flat, or so far away, that the set is better looked at in its coordinates."""
    if C.ellipsoid is None or transformed():
        return False
    M, center, size = (t.detach() for t in C.ellipsoid)
    unused = (M == 0).all(-1)
    mean = trace(M) / (~unused).sum(-1).clamp(min=1)
    filled = M + torch.diag_embed(torch.where(unused, mean.unsqueeze(-1), 0.0))
    eigenvalues = torch.linalg.eigvalsh(filled.nan_to_num(0.0, 0.0, 0.0))
    flat = eigenvalues[..., -1] > _FLAT * eigenvalues[..., 0]
    far = (center * times(M, center)).sum(-1) > _FAR * _FAR * size
    return bool(flat.any() | far.any())


def own_axes(C: ConvexSet, ellipsoid: Ellipsoid, length: Tensor | None = None) -> Axes:
    """The set in the ellipsoid's own coordinates. ``length`` (...): how far from the centre to look, where neither
    rows nor bounds say it."""
    M, center, size = ellipsoid
    n, k = center.shape[-1], C.lifted
    W, diagonal = _columns(C, ellipsoid, length)
    parts: dict[str, Any] = {}
    for matrix, right in (("G", "h"), ("A", "b")):
        m, v = getattr(C, matrix), getattr(C, right)
        if m is not None:
            own = m[..., :n]
            parts[matrix] = join([own @ W, *([m[..., n:]] if k else [])], -1)
            parts[right] = v - times(own, center)
            parts[f"{right} terms"] = v.detach().abs() + times(own.detach().abs(), center.detach().abs())
    rows, sides, terms = ([parts[name]] if "G" in parts else [] for name in ("G", "h", "h terms"))
    for name, sign in (("lb", -1.0), ("ub", 1.0)):
        if (bound := getattr(C, name)) is not None:
            bound = vector_of(bound, n + k, center)
            rows.append(torch.nn.functional.pad(sign * W, (0, k)))
            sides.append(sign * (bound[..., :n] - center))
            terms.append(bound[..., :n].detach().abs() + center.detach().abs())
            if k:
                free = center.new_full((n,), -sign * -torch.inf)
                parts[name] = join([free, bound[..., n:]], -1)
    if rows:
        parts["G"], parts["h"] = join(rows, -2), join(sides, -1)
    noise = join(terms, -1) if rows else None, parts.pop("b terms", None)
    parts.pop("h terms", None)
    # the derivatives of the form, of which diagonal is the value
    live = (W.mT @ M @ W) / size.detach()[..., None, None]
    form = torch.diag_embed(diagonal) + (live - live.detach())
    own_ellipsoid = Ellipsoid(form, torch.zeros_like(center), size / size.detach())
    gone: dict[str, Any] = dict.fromkeys(("G", "h", "A", "b", "lb", "ub"))
    return Axes(dataclasses.replace(C, **{**gone, **parts}, ellipsoid=own_ellipsoid), W, noise)


def _columns(C: ConvexSet, ellipsoid: Ellipsoid, far: Tensor | None) -> tuple[Tensor, Tensor]:
    """W (..., n, n), without a graph, and d (..., n) in [0, 1] with (W x)^T M (W x) = size sum_i d_i x_i^2.

    Variables are measured by how far they can go, D: by the ellipsoid, or by a usual distance of rows and bounds if
    that is less. There the columns are the axes of the ellipsoid, d_i = 1, but for axes that are too long to be
    reached: in the kernel of M they have no end.
    """
    M, center, size = (t.detach() for t in ellipsoid)
    width = (size.unsqueeze(-1) / M.diagonal(dim1=-2, dim2=-1).clamp(min=0.0)).sqrt()  # inf: any
    least = width.amin(-1, keepdim=True)
    usual = _typical(C, center, far).unsqueeze(-1)
    most = torch.where(usual.isfinite(), torch.maximum(usual, least), width)
    width = torch.minimum(width, torch.where(least.isfinite(), most, usual))
    width = torch.where(width.isfinite(), width, torch.where(least.isfinite(), _LONG * least, 1.0))
    unit_form = width.unsqueeze(-1) * M * width.unsqueeze(-2) / size[..., None, None]
    e, V = torch.linalg.eigh((0.5 * (unit_form + unit_form.mT)).nan_to_num(0.0, 0.0, 0.0))
    rounding = _ROUNDING * torch.finfo(e.dtype).eps * e[..., -1:]
    e = torch.where(e > rounding, e, 0.0)
    length = e.rsqrt().clamp(max=_LONG_AXIS)
    return width.unsqueeze(-1) * V * length.unsqueeze(-2), e * length.square()


def _typical(C: ConvexSet, point: Tensor, else_: Tensor | None) -> Tensor:
    """The median distance of rows and bounds from the point (..., n), without any ``else_`` or inf: (...)."""
    n, distances = point.shape[-1], []
    if C.G is not None and C.h is not None:
        own = C.G.detach()[..., :n]
        distances.append((C.h.detach() - times(own, point)).abs() / own.norm(dim=-1))
    for bound in (C.lb, C.ub):
        if bound is not None:
            distances.append((vector_of(bound, n + C.lifted, point)[..., :n].detach() - point).abs())
    if not sum(part.shape[-1] for part in distances):
        return torch.full_like(point[..., 0], torch.inf) if else_ is None else else_
    every = join(distances, -1)
    median = torch.where(every.isfinite() & (every > 0), every, torch.nan).nanmedian(-1).values
    return torch.where(median.isnan(), torch.inf if else_ is None else else_, median)


def back(C: ConvexSet, found: Minimum, ellipsoid: Ellipsoid, W: Tensor) -> Minimum:
    """A minimum over the set of :meth:`_axes`, as one over this set."""
    s, n, k = found.solution, W.shape[-1], C.lifted
    y = ellipsoid.center + times(W, s.value[..., :n])
    ends = 0 if C.h is None or C.G is None else C.h.shape[-1]
    duals, on = {"dual_lb": s.dual_lb, "dual_ub": s.dual_ub}, {"lower": s.active.lower, "upper": s.active.upper}
    m = ends
    for bound, dual, active in ((C.lb, "dual_lb", "lower"), (C.ub, "dual_ub", "upper")):
        if bound is not None:
            duals[dual] = torch.cat((s.dual_ineq[..., ends : ends + n], duals[dual][..., n:]), -1)
            on[active] = torch.cat((s.active.ineq[..., ends : ends + n], on[active][..., n:]), -1)
            ends += n
    solution = dataclasses.replace(
        s,
        value=torch.cat((y, s.value[..., n:]), -1) if k else y,
        **{name: getattr(s, name)[..., :m] for name in OF_ROWS},
        active=ActiveSet(s.active.ineq[..., :m], **on),
        ray=torch.cat((times(W, s.ray[..., :n]), s.ray[..., n:]), -1),
        **duals,
    )
    return Minimum(y, found.multiplier, solution)
