"""Derivatives of an energy: its own closed forms where it has them, autograd otherwise.

An energy maps y (..., n) to (...), each row on its own; summing over rows before differentiating therefore mixes
nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from icnn_rl.eager import transformed

EnergyFunction = Callable[[Tensor], Tensor]


def value_and_grad(energy: EnergyFunction, y: Tensor, *, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """f(y) and its gradient; detached unless ``differentiable``."""
    if hasattr(energy, "value_and_grad"):
        with torch.set_grad_enabled(differentiable):
            f, g = energy.value_and_grad(y)
            return f, g
    if transformed():
        f, g = _in_transform(energy, y)
        return (f, g) if differentiable else (f.detach(), g.detach())
    with _recording():
        leaf = y if differentiable and y.requires_grad else _leaf(y)
        f = _value(energy, leaf)
        g = _grad(f.sum(), leaf, create_graph=differentiable)
    return (f, g) if differentiable else (f.detach(), g.detach())


def value_grad_hessian(energy: EnergyFunction, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(y), its gradient and its Hessian, detached. Without a closed form: n backward passes."""
    if hasattr(energy, "value_grad_hessian"):
        with torch.no_grad():
            f, g, h = energy.value_grad_hessian(y)
            return f, g, h
    if transformed():
        return _hessian_in_transform(energy, y.detach())
    with _recording():
        leaf = _leaf(y)
        f = _value(energy, leaf)
        g = _grad(f.sum(), leaf, create_graph=True)
        columns = [_grad(g[..., j].sum(), leaf, retain_graph=True) for j in range(y.shape[-1])]
    return f.detach(), g.detach(), torch.stack(columns, dim=-1).detach()


def live_value_and_grad(energy: EnergyFunction, y: Tensor) -> tuple[Tensor, Tensor]:
    """f and its gradient at the constant ``y``, as functions of whatever parameters the energy depends on."""
    if hasattr(energy, "value_and_grad"):
        return with_graph(energy, y.detach())
    if transformed():
        return _in_transform(energy, y.detach())
    return with_graph(energy, y.detach().requires_grad_())


def with_graph(energy: EnergyFunction, leaf: Tensor) -> tuple[Tensor, Tensor]:
    """f and its gradient at ``leaf``, as functions of it and of whatever parameters the energy depends on."""
    with torch.enable_grad():
        if hasattr(energy, "value_and_grad"):
            f, g = energy.value_and_grad(leaf)
            return f, g
        f = _value(energy, leaf)
        return f, _grad(f.sum(), leaf, create_graph=True)


def curvature_of(energy: EnergyFunction) -> Tensor | None:
    """The energy's own lower bound on its curvature, detached, or None."""
    curvature = getattr(energy, "curvature", None)
    return None if curvature is None else curvature.detach()


def _in_transform(energy: EnergyFunction, y: Tensor) -> tuple[Tensor, Tensor]:
    """f and its gradient inside of ``torch.func``, which allows no ``requires_grad_()``."""

    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        f = energy(y)
        return f.sum(), f

    with torch.enable_grad():
        g, (_, f) = torch.func.grad_and_value(total, has_aux=True)(y)
    return f, g


def _hessian_in_transform(energy: EnergyFunction, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    def gradient(y: Tensor) -> tuple[Tensor, Tensor]:
        f, g = _in_transform(energy, y)
        return g, f

    with torch.enable_grad():
        g, pull, f = torch.func.vjp(gradient, y, has_aux=True)  # type: ignore[misc]  # three, with has_aux
        units = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        columns = [pull(unit.expand_as(y))[0] for unit in units]
    return f.detach(), g.detach(), torch.stack(columns, dim=-1).detach()


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Autograd on, in inference mode too, where enable_grad() does nothing."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _leaf(y: Tensor) -> Tensor:
    return (y.clone() if y.is_inference() else y.detach()).requires_grad_()


def _value(energy: EnergyFunction, leaf: Tensor) -> Tensor:
    """f, which may do without a graph only if it is constant.

    Raises:
        ValueError: it is not.
    """
    f = energy(leaf)
    if not f.requires_grad:
        other = energy(leaf + 1.0)
        if not bool(((other == f) | (other.isnan() & f.isnan())).all()):
            raise ValueError(
                "energy: its value changes with y, but autograd sees no dependence: it is computed under no_grad or "
                "detached. Leave that out, or give the energy a method value_and_grad."
            )
    return f


def _grad(f: Tensor, leaf: Tensor, *, create_graph: bool = False, retain_graph: bool | None = None) -> Tensor:
    if not f.requires_grad:
        return torch.zeros_like(leaf)
    (g,) = torch.autograd.grad(f, leaf, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True)
    return g
