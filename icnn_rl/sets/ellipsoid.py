"""Ellipsoids, and cylinders over them: { y : (y - c)^T M (y - c) <= r } with M positive semidefinite.

Where M is singular the set goes on for ever along the kernel of M. In floating point a matrix such as J^T J, with fewer
rows than columns, has eigenvalues of the size of its rounding there, of either sign. Everything here is therefore said
of

    M = B^T diag(e) B,   B = V^T S,   S^2 = diag M,   V orthogonal,

the eigenvalues e of S^-1 M S^-1, whose entries are known to the same digits whatever the units of the variables:
negative ones of the size of rounding are 0, larger ones mean that M is indefinite, and the set no convex one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl.eager import transformed

__all__ = ["Ellipsoid", "Spectrum", "power_of_two", "times", "trace", "unit"]

_HOLDS = 1e-9  # by how much, relative to its size, an ellipsoid may be violated by a point that counts as one of it
_ROUNDING = 64.0  # units of eps, of the terms of the form, that its evaluation may be off
_INDEFINITE = 8.0  # units of n eps: the rounding of S^-1 M S^-1
_NOTHING = 8.0  # units of eps below which an entry of V is none


class Spectrum(NamedTuple):
    """M = B^T diag(e) B with B = V^T S: e (..., n) ascending and as computed, V (..., n, n), S (..., n), and the
    eigenvalue (...) of S^-1 M S^-1 that could be rounding."""

    values: Tensor
    vectors: Tensor
    scale: Tensor
    rounding: Tensor

    def axes(self) -> Tensor:
        """B^-1 = S^-1 V: columns along which the form is e_i x_i^2: (..., n, n)."""
        return self.vectors / self.scale.unsqueeze(-1)

    def definite(self, condition: float) -> Tensor:
        """Whether e spans less than this: (...) bool."""
        return self.values[..., 0] * condition > self.values[..., -1]


class Ellipsoid(NamedTuple):
    """{ y : (y - center)^T M (y - center) <= size }: M (..., n, n) positive semidefinite, center (..., n), size (...)
    > 0. Where M is singular, a cylinder."""

    M: Tensor
    center: Tensor
    size: Tensor

    def form(self, y: Tensor) -> Tensor:
        """(y - c)^T M (y - c): (..., n) -> (...)."""
        d = y - self.center
        form: Tensor = (d * times(self.M, d)).sum(-1)
        return form

    def holds(self, y: Tensor) -> Tensor:
        """Whether form(y) <= size to 1e-9 of the size, and what rounding makes of the form: (...) bool."""
        d = (y - self.center).abs()
        terms = times(self.M.abs(), d * d + torch.finfo(y.dtype).eps * y.abs() * d).sum(-1)
        rounding = _ROUNDING * torch.finfo(y.dtype).eps * terms
        return self.form(y) <= self.size * (1.0 + _HOLDS) + rounding

    def violation(self, y: Tensor) -> Tensor:
        """Distance to the boundary to first order, < 0 inside: (...)."""
        M, _, size = ellipsoid = self.in_unit()
        d = y - ellipsoid.center
        slope = times(M, d)
        form = (d * slope).sum(-1)
        # sqrt(form) - sqrt(size) over the norm of its gradient, M d / sqrt(form); the latter at c: of a mean direction
        root = form.clamp(min=torch.finfo(y.dtype).tiny).sqrt()
        steepest, mean = trace(M).sqrt(), (trace(M) / y.shape[-1]).sqrt()
        # along the kernel both are rounding, and their ratio anything
        steepness = torch.minimum(slope.norm(dim=-1) / root, steepest)
        away: Tensor = (root - size.sqrt()) / torch.where(form > 0, steepness, mean)
        return away

    def depth(self, y: Tensor) -> Tensor:
        """The radius of a ball around y within the ellipsoid, < 0 outside: (...)."""
        # sqrt(form) grows by sqrt(largest eigenvalue) along a unit of length at most
        steepest = torch.linalg.eigvalsh(self.M)[..., -1].clamp(min=0.0).sqrt()
        radius: Tensor = (self.size.sqrt() - self.form(y).clamp(min=0.0).sqrt()) / steepest
        return radius

    def in_unit(self) -> Ellipsoid:
        """The same set, with M divided by a power of two where its squares would over- or underflow."""
        scale = None if transformed() else unit(self.M.detach().abs().amax((-2, -1)))
        if scale is None:
            return self
        return Ellipsoid(self.M * scale[..., None, None], self.center, self.size * scale)

    def spectrum(self, eps: float = torch.finfo(torch.float64).eps) -> Spectrum:
        """Of M, without a graph and in float64, with zeros where it is not finite; ``eps``: of the type that it came
        in."""
        M = self.M.detach().double().nan_to_num(0.0, 0.0, 0.0)
        M, n = 0.5 * (M + M.mT), M.shape[-1]
        diagonal = M.diagonal(dim1=-2, dim2=-1).clamp(min=0.0)
        used = diagonal > 0
        mean = diagonal.sum(-1, keepdim=True) / used.sum(-1, keepdim=True).clamp(min=1)
        scale = torch.where(used, diagonal, torch.where(mean > 0, mean, 1.0)).sqrt()
        values, vectors = torch.linalg.eigh(M / scale.unsqueeze(-1) / scale.unsqueeze(-2))
        return Spectrum(values, vectors, scale, _INDEFINITE * n * eps * values.abs().amax(-1))

    def without_rounding(self, spectrum: Spectrum) -> Ellipsoid:
        """With the positive part of M, which makes the set smaller if anything."""
        if not bool((spectrum.values[..., 0] < 0).any()):
            return self
        B = spectrum.vectors.mT * spectrum.scale.unsqueeze(-2)
        lacking = (B.mT * (-spectrum.values).clamp(min=0.0).unsqueeze(-2)) @ B
        used = (self.M.detach() != 0).any(-1)
        lacking = torch.where(used.unsqueeze(-1) & used.unsqueeze(-2), lacking, 0.0)  # a cylinder stays one
        return self._replace(M=self.M + lacking.to(self.M))

    def indefinite(self, spectrum: Spectrum) -> Tensor:
        """Whether M is finite and has a negative eigenvalue that is not rounding: (...) bool."""
        finite = torch.isfinite(self.M.detach()).flatten(-2).all(-1)
        return finite & (spectrum.values[..., 0] < -spectrum.rounding)

    def sound(self, eps: float = torch.finfo(torch.float64).eps) -> tuple[Ellipsoid, Tensor | None]:
        """With the positive part of M, and where M has a negative eigenvalue that is not rounding; None: nowhere.
        ``eps``: of the dtype that M came in."""
        if transformed():
            return self, None
        spectrum = self.spectrum(eps)
        indefinite = self.indefinite(spectrum)
        return self.without_rounding(spectrum), indefinite if bool(indefinite.any()) else None

    def reach(self) -> Tensor:
        """How far the ellipsoid goes from its centre in every variable, inf where it has no end: (..., n)."""
        spectrum = self.spectrum()
        axes = spectrum.axes()
        # no less than the true length: an eigenvalue is taken to be smaller by what could be rounding
        least = (spectrum.values - spectrum.rounding.unsqueeze(-1)).clamp(min=0.0).unsqueeze(-2)
        none = spectrum.vectors.abs() <= _NOTHING * torch.finfo(torch.float64).eps
        squares = torch.where(none, 0.0, axes.square() / least)
        return (self.size.detach().double().unsqueeze(-1) * squares.sum(-1)).sqrt()


def unit(largest: Tensor) -> Tensor | None:
    """Powers of two that bring numbers into [1/2, 1), 1 where that is not needed; None: nowhere.

    It is needed where squares of the numbers, times another few orders of magnitude, are not normal numbers.
    """
    most = 2.0**256 if largest.dtype == torch.float64 else 2.0**32
    odd = (largest > 0) & ((largest > most) | (largest < 1.0 / most)) & largest.isfinite()
    if not bool(odd.any()):
        return None
    return torch.where(odd, power_of_two(largest), 1.0)


def power_of_two(largest: Tensor) -> Tensor:
    """What brings numbers >= 0 into [1/2, 1), nearly so subnormal ones, whose reciprocals overflow; 1 for no number."""
    least = -1000 if largest.dtype == torch.float64 else -120
    exponent = torch.frexp(largest.nan_to_num(1.0, 1.0))[1].clamp(min=least)
    return torch.exp2(-exponent.to(largest.dtype))


def trace(m: Tensor) -> Tensor:
    """Sum of the diagonal: (..., n, n) -> (...)."""
    return m.diagonal(dim1=-2, dim2=-1).sum(-1)


def times(m: Tensor, v: Tensor) -> Tensor:
    """Matrix times vector: (..., m, n), (..., n) -> (..., m)."""
    return torch.matmul(m, v.unsqueeze(-1)).squeeze(-1)
