"""Activations of the convex path, with the derivatives that the solvers' closed forms need.

A composition g(convex function) stays convex if g is convex **and** non-decreasing. Both are checked when a network is
built; SiLU, GELU, tanh and the like are refused, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.eager import any_transform

__all__ = ["CONVEX_ACTIVATIONS", "ConvexActivation", "resolve_activation"]

SOFTPLUS_BETA = 2.0  # of "softplus": log(1 + exp(beta x)) / beta

_GRID_LIMIT, _GRID_POINTS = 12.0, 4097


Jet = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ConvexActivation:
    """A convex, non-decreasing scalar function g.

    Attributes:
        name: for messages and configs.
        value: x -> g(x), elementwise.
        jet: x -> (g(x), g'(x), g''(x)), elementwise; at a kink any element of the subdifferential, g'' = 0.
        smooth: whether g is twice differentiable.
        blurred: (x, v) -> the jet of g averaged over a spread of variance v around x, nearly; None: not known.
        square_width: w^2 where g is (x + sqrt(x^2 + w^2)) / 2, which compiled code knows; None: another function.
        pieces: (slope, offset) of affine functions whose maximum is g, all slopes >= 0; None: not known.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    jet: Callable[[Tensor], Jet]
    smooth: bool
    blurred: Callable[[Tensor, Tensor], Jet] | None = None
    square_width: float | None = None
    pieces: tuple[tuple[float, float], ...] | None = None

    @property
    def piecewise_linear(self) -> bool:
        """Whether g'' = 0 wherever it exists: Newton's method sees no curvature then."""
        return not bool(self.jet(_grid())[2].any())

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by name, where there is one: the closures inside cannot be."""
        if CONVEX_ACTIVATIONS.get(self.name) is self:
            return resolve_activation, (self.name,)
        return ConvexActivation, tuple(getattr(self, field.name) for field in fields(self))


def _softplus(beta: float) -> ConvexActivation:
    def value(x: Tensor) -> Tensor:
        return F.softplus(x, beta=beta, threshold=40.0)  # the default, 20, leaves a step of 1e-9: not convex

    def jet(x: Tensor) -> Jet:
        sigma = torch.sigmoid(beta * x)
        return value(x), sigma, beta * (sigma - sigma * sigma)

    return ConvexActivation("softplus", value, jet, smooth=True)


def _squareplus(width: float) -> ConvexActivation:
    """(x + sqrt(x^2 + w^2)) / 2: a smooth ReLU that costs one square root (Barron, 2021, arXiv 2112.11687)."""

    def value(x: Tensor) -> Tensor:
        return (x + torch.sqrt(x * x + width * width)).mul_(0.5)

    def jet(x: Tensor) -> Jet:
        return of_square_width(x, width * width)

    def blurred(x: Tensor, variance: Tensor) -> Jet:
        return of_square_width(x, variance + width * width)  # a wider squareplus, whose bend has that variance more

    def of_square_width(x: Tensor, square: Tensor | float) -> Jet:
        inverse = torch.rsqrt((x * x).add_(square))
        slope = (x * inverse).mul_(0.5).add_(0.5)
        return slope / inverse, slope, inverse.pow(3).mul_(0.5 * square)

    return ConvexActivation("squareplus", value, jet, smooth=True, blurred=blurred, square_width=width * width)


def _leaky_relu(slope: float) -> ConvexActivation:
    def jet(x: Tensor) -> Jet:
        return F.leaky_relu(x, slope), torch.where(x > 0, 1.0, slope).to(x.dtype), torch.zeros_like(x)

    name = "relu" if slope == 0 else "leaky_relu"
    pieces = (slope, 0.0), (1.0, 0.0)
    return ConvexActivation(name, lambda x: F.leaky_relu(x, slope), jet, smooth=False, pieces=pieces)


def _elu() -> ConvexActivation:
    def jet(x: Tensor) -> Jet:
        tail = torch.exp(x.clamp(max=0.0))
        return F.elu(x), tail, torch.where(x > 0, 0.0, tail)

    return ConvexActivation("elu", F.elu, jet, smooth=False)  # g'' jumps at 0


CONVEX_ACTIVATIONS: dict[str, ConvexActivation] = {
    "softplus": _softplus(SOFTPLUS_BETA),
    "squareplus": _squareplus(width=1.0),
    "relu": _leaky_relu(0.0),
    "leaky_relu": _leaky_relu(0.01),
    "elu": _elu(),
}


def resolve_activation(activation: str | Callable[[Tensor], Tensor] | ConvexActivation) -> ConvexActivation:
    """Turn a name, an elementwise callable or a ConvexActivation into a checked ConvexActivation.

    Args:
        activation: a key of :data:`CONVEX_ACTIVATIONS`, or any elementwise function such as
            ``torch.nn.Softplus(beta=5)``.

    Raises:
        ValueError: the name is unknown, or the function is not convex or decreases somewhere on [-12, 12].
    """
    if isinstance(activation, str):
        if activation not in CONVEX_ACTIVATIONS:
            known = ", ".join(sorted(CONVEX_ACTIVATIONS))
            raise ValueError(
                f"activation: {activation!r} is not a known convex, non-decreasing activation; choose one of {known}, "
                "or pass an elementwise function, which is then checked."
            )
        return CONVEX_ACTIVATIONS[activation]
    if isinstance(activation, ConvexActivation):
        _check_shape(activation.value, activation.name)
        _check_pieces(activation)
        return activation
    if isinstance(activation, type):
        raise ValueError(
            f"activation: expected a name or a function, got the class {activation.__name__}. Pass an instance of it, "
            f"{activation.__name__}(), or a name such as 'relu'."
        )
    if not callable(activation):
        raise ValueError(f"activation: expected a name or a function, got {type(activation).__name__}.")
    name = getattr(activation, "__name__", type(activation).__name__)
    _check_shape(activation, name)
    jet, smooth = _AutogradJet(activation), _looks_smooth(activation)
    return ConvexActivation(name, activation, jet, smooth, pieces=_known_pieces(activation))


def _grid() -> Tensor:
    return torch.linspace(-_GRID_LIMIT, _GRID_LIMIT, _GRID_POINTS, dtype=torch.float64)


def _grid_values(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = _grid()
    with torch.no_grad():
        return x, function(x.clone())


def _check_shape(function: Callable[[Tensor], Tensor], name: str) -> None:
    """Raise unless ``function`` is non-decreasing and convex on a grid: first and second differences >= 0."""
    x, g = _grid_values(function)
    if g.shape != x.shape or not bool(torch.isfinite(g).all()):
        raise ValueError(f"activation {name!r}: must map a tensor to finite numbers of the same shape.")
    tolerance = 1e-9 * float(g.abs().max() + 1.0)
    slope = g.diff()
    if float(slope.min()) < -tolerance:
        at = float(x[int(slope.argmin())])
        raise ValueError(
            f"activation {name!r} decreases near {at:.2f}: the network would not be convex in its input. "
            f"Use a convex, non-decreasing function: {', '.join(sorted(CONVEX_ACTIVATIONS))}."
        )
    bend = slope.diff()
    if float(bend.min()) < -tolerance:
        at = float(x[int(bend.argmin()) + 1])
        raise ValueError(
            f"activation {name!r} is not convex near {at:.2f}: the network would not be convex in its input. "
            f"Use a convex, non-decreasing function: {', '.join(sorted(CONVEX_ACTIVATIONS))}."
        )


def _known_pieces(function: Callable[[Tensor], Tensor]) -> tuple[tuple[float, float], ...] | None:
    """Of PyTorch's own piecewise-linear functions. Those of others cannot be told from samples."""
    if function in (F.relu, torch.relu) or type(function) is nn.ReLU:
        return (0.0, 0.0), (1.0, 0.0)
    if type(function) is nn.LeakyReLU:
        return (float(function.negative_slope), 0.0), (1.0, 0.0)
    return None


def _check_pieces(activation: ConvexActivation) -> None:
    if activation.pieces is None:
        return
    x, g = _grid_values(activation.value)
    most = torch.stack([slope * x + offset for slope, offset in activation.pieces]).amax(0)
    if not torch.allclose(most, g, rtol=1e-9, atol=1e-9) or min(slope for slope, _ in activation.pieces) < 0:
        raise ValueError(
            f"activation {activation.name!r}: expected pieces (slope >= 0, offset) whose maximum is the function, got "
            f"{activation.pieces}."
        )


def _looks_smooth(function: Callable[[Tensor], Tensor]) -> bool:
    """No kink on the grid: the slope changes by less than a tenth of its range in one cell."""
    _, g = _grid_values(function)
    slope = g.diff()
    spread = float(slope.max() - slope.min())
    return math.isclose(spread, 0.0) or float(slope.diff().abs().max()) < 0.1 * spread


@dataclass(frozen=True)
class _AutogradJet:
    """Value, first and second derivative by autograd, for functions that come without a closed form."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Jet:
        if any_transform():  # of torch.func, which allows no requires_grad_()
            return self.function(x), self._slope(x), torch.func.grad(lambda x: self._slope(x).sum())(x)
        keep = torch.is_grad_enabled() and x.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x if keep else x.detach().clone().requires_grad_()  # a copy: autograd takes no inference tensor
            g = self.function(leaf)
            (first,) = torch.autograd.grad(g.sum(), leaf, create_graph=True)
            if first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), leaf, create_graph=keep, materialize_grads=True)
            else:
                second = torch.zeros_like(x)
        return (g, first, second) if keep else (g.detach(), first.detach(), second.detach())

    def _slope(self, x: Tensor) -> Tensor:
        slope: Tensor = torch.func.grad(lambda x: self.function(x).sum())(x)
        return slope
