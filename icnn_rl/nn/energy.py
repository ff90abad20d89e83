"""A convex network with its context fixed: a function of y alone, with closed-form derivatives.

Both networks of the paper end here. With z_0 absent and, for every layer i = 0 .. k-1,

    p_i = W_i^(z) (z_i * zgate_i) + W_i^(y) (y * ygate_i) + c_i,          z_{i+1} = g(p_i)
    f   = wout . z_k + lin . y + c_k + 1/2 sum_j q_j y_j^2,               W^(z), zgate, wout, q >= 0

the gates and offsets have been computed from the context once (or are constants, in a fully convex network). Value,
gradient and Hessian in y are then a handful of matrix products and need no autograd graph:

    reverse:  d_k = wout,    d_i = zgate_i * W_i^(z)T (d_{i+1} * g'(p_i)),    grad = sum_i ygate_i * W_i^(y)T (d_{i+1} *
    g'(p_i)) + lin + q * y
    forward:  J_0 = W_0^(y) diag(ygate_0),    J_i = W_i^(z) diag(zgate_i * g'(p_{i-1})) J_{i-1} + W_i^(y) diag(ygate_i)
    Hessian:  H = sum_i J_i^T diag(d_{i+1} * g''(p_i)) J_i + diag(q).

J_0 has the form (fixed matrix) x diagonal, so the first layer's part of H is one product with the table of outer
products of the rows of W_0^(y); only deeper layers need Jacobians per row.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from icnn_rl._checks import check_choice
from icnn_rl.nn.activations import ConvexActivation

__all__ = ["ConvexLayer", "EnsembleEnergy"]

REDUCTIONS = ("none", "mean", "softmax")


class ConvexLayer(NamedTuple):
    """One layer of the convex path: E members, B rows (1 where a tensor does not depend on the row)."""

    offset: Tensor  # c_i          (E, B, h)
    passthrough: Tensor  # W_i^(y) (E, h, n)
    y_gate: Tensor | None  # (E, B, n); None: all ones
    weight: Tensor | None  # W_i^(z) (E, h, h_prev), >= 0; None in the first layer
    z_gate: Tensor | None  # (E, B, h_prev), >= 0; None: all ones


class _Trace(NamedTuple):
    """What the forward sweep leaves for the later ones: g' and g'' of every layer's pre-activation."""

    slope: list[Tensor]
    bend: list[Tensor]


def _present(part: Tensor | None) -> Tensor:
    assert part is not None
    return part


def _scaled(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * gate


@dataclass
class EnsembleEnergy:
    """f(y) of one member or of a reduction over members; convex in y.

    Args:
        layers: the convex path.
        out_weight: wout (E, B, h_k), >= 0.
        linear: lin (E, B, n).
        constant: c_k (E, B).
        quadratic: q (E, B, n), >= 0.
        activation: g.
        reduction: ``"none"``: y (B, n) or (E, B, n) -> (E, B). ``"mean"``: (B, n) -> (B,), the mean of the members.
            ``"softmax"``: (B, n) -> (B,), temperature * log sum_e exp(f_e / temperature): convex, smooth, and above
            max_e f_e by at most temperature * log E.
        temperature: of the soft maximum, in units of f.
        squeeze: with reduction "none" and E = 1, drop the member dimension.
    """

    layers: list[ConvexLayer]
    out_weight: Tensor
    linear: Tensor
    constant: Tensor
    quadratic: Tensor
    activation: ConvexActivation
    reduction: str = "none"
    temperature: float = 1.0
    squeeze: bool = False

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, REDUCTIONS)
        self._outer_products: Tensor | None = None
        self._first_jacobian: Tensor | None = None

    @property
    def smooth(self) -> bool:
        """Whether f is twice differentiable in y."""
        return self.activation.smooth

    @property
    def curvature(self) -> Tensor:
        """m (B, n) or (E, B, n): f - 1/2 sum_j m_j y_j^2 is still convex. Solvers turn it into certificates."""
        if self.reduction == "mean":
            return self.quadratic.mean(0)
        if self.reduction == "softmax":
            return self.quadratic.amin(0)
        return self.quadratic.squeeze(0) if self.squeeze else self.quadratic

    @property
    def separable(self) -> bool:
        """Whether the energy is one number a row, so that :meth:`rows` makes sense."""
        return self.reduction != "none" or self.squeeze

    def rows(self, index: Tensor) -> EnsembleEnergy:
        """The energy of the rows at ``index`` alone. Tensors that do not depend on the row are shared."""

        def pick(part: Tensor | None) -> Tensor | None:
            return part if part is None or part.shape[1] == 1 else part[:, index]

        layers = [
            ConvexLayer(_present(pick(one.offset)), one.passthrough, pick(one.y_gate), one.weight, pick(one.z_gate))
            for one in self.layers
        ]
        chosen = dataclasses.replace(
            self,
            layers=layers,
            out_weight=_present(pick(self.out_weight)),
            linear=_present(pick(self.linear)),
            constant=_present(pick(self.constant)),
            quadratic=_present(pick(self.quadratic)),
        )
        chosen._outer_products = self._outer_products
        return chosen

    def start(self) -> Tensor:
        """(B, n) of zeros: a starting point of the right shape, dtype and device."""
        return self.linear.new_zeros(self.linear.shape[-2:])

    def __call__(self, y: Tensor) -> Tensor:
        return self._reduce_value(self.member_values(y))

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f and its gradient in y, shapes (B,) and (B, n), or with a leading E for reduction "none"."""
        trace, f = self._forward(y)
        g, _ = self._reverse(trace, y)
        if self.reduction == "none":
            return (f.squeeze(0), g.squeeze(0)) if self.squeeze else (f, g)
        weights = self._member_weights(f)
        return self._reduce_value(f), (weights[..., None] * g).sum(0)

    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f, its gradient and its Hessian in y: (B,), (B, n), (B, n, n), or with a leading E for reduction "none"."""
        trace, f = self._forward(y)
        g, adjoints = self._reverse(trace, y)
        h = self._hessian(trace, adjoints)
        if self.reduction == "none":
            return (f.squeeze(0), g.squeeze(0), h.squeeze(0)) if self.squeeze else (f, g, h)
        if self.reduction == "mean":
            return f.mean(0), g.mean(0), h.mean(0)
        # soft maximum: H = sum_e w_e H_e + ( sum_e w_e g_e g_e^T - g g^T ) / temperature
        weights = self._member_weights(f)
        gradient = (weights[..., None] * g).sum(0)
        spread = torch.einsum("eb,ebi,ebj->bij", weights, g, g) - gradient[:, :, None] * gradient[:, None, :]
        return self._reduce_value(f), gradient, (weights[..., None, None] * h).sum(0) + spread / self.temperature

    def member_values(self, y: Tensor) -> Tensor:
        """(E, B): every member's value, whatever the reduction."""
        z: Tensor | None = None
        for layer in self.layers:
            z = self.activation.value(self._pre_activation(layer, z, y))
        return self._head(z, y)

    # the sweeps

    def _pre_activation(self, layer: ConvexLayer, z: Tensor | None, y: Tensor) -> Tensor:
        p = torch.matmul(_scaled(y, layer.y_gate), layer.passthrough.mT) + layer.offset
        if layer.weight is None or z is None:
            return p
        return p + torch.matmul(_scaled(z, layer.z_gate), layer.weight.mT)

    def _head(self, z: Tensor | None, y: Tensor) -> Tensor:
        f = ((self.linear + 0.5 * self.quadratic * y) * y).sum(-1) + self.constant
        return f if z is None else f + (self.out_weight * z).sum(-1)

    def _forward(self, y: Tensor) -> tuple[_Trace, Tensor]:
        trace = _Trace([], [])
        z: Tensor | None = None
        for layer in self.layers:
            p = self._pre_activation(layer, z, y)
            z, slope, bend = self.activation.jet(p)
            trace.slope.append(slope)
            trace.bend.append(bend)
        return trace, self._head(z, y)

    def _reverse(self, trace: _Trace, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradient in y, and the adjoints d_{i+1} = df/dz_{i+1} of every layer."""
        gradient = self.linear + self.quadratic * y
        adjoints: list[Tensor] = []
        d = self.out_weight
        for layer, slope in zip(reversed(self.layers), reversed(trace.slope), strict=True):
            adjoints.append(d)
            delta = d * slope
            gradient = gradient + _scaled(torch.matmul(delta, layer.passthrough), layer.y_gate)
            if layer.weight is not None:
                d = _scaled(torch.matmul(delta, layer.weight), layer.z_gate)
        return gradient, adjoints[::-1]

    def _hessian(self, trace: _Trace, adjoints: list[Tensor]) -> Tensor:
        n = self.linear.shape[-1]
        hessian: Tensor = torch.diag_embed(self.quadratic)
        if not self.layers:
            return hessian
        first = self.layers[0]
        if self._outer_products is None:
            rows = first.passthrough
            self._outer_products = (rows[..., :, None] * rows[..., None, :]).flatten(-2)  # (E, h, n*n)
        h0 = torch.matmul(adjoints[0] * trace.bend[0], self._outer_products).reshape(*trace.bend[0].shape[:-1], n, n)
        if first.y_gate is not None:
            h0 = h0 * (first.y_gate[..., :, None] * first.y_gate[..., None, :])
        hessian = hessian + h0
        if len(self.layers) == 1:
            return hessian
        if self._first_jacobian is None:
            gate = 1.0 if first.y_gate is None else first.y_gate[..., :, None]
            self._first_jacobian = first.passthrough.mT.unsqueeze(1) * gate  # (E, B, n, h), transposed
        jacobian = self._first_jacobian
        for i, layer in enumerate(self.layers[1:], start=1):
            assert layer.weight is not None
            scale = _scaled(trace.slope[i - 1], layer.z_gate)
            inner = scale[..., None, :] * jacobian
            ens, batch = inner.shape[:2]
            own = layer.passthrough.mT.unsqueeze(1)
            if layer.y_gate is not None:
                own = own * layer.y_gate[..., :, None]
            carried = torch.matmul(inner.reshape(ens, batch * n, -1), layer.weight.mT)
            jacobian = carried.view(ens, batch, n, -1) + own
            curvature = (adjoints[i] * trace.bend[i])[..., None, :]
            hessian = hessian + torch.matmul(jacobian * curvature, jacobian.mT)
        return hessian

    # reductions over members

    def _reduce_value(self, f: Tensor) -> Tensor:
        if self.reduction == "mean":
            return f.mean(0)
        if self.reduction == "softmax":
            return self.temperature * torch.logsumexp(f / self.temperature, dim=0)
        return f.squeeze(0) if self.squeeze else f

    def _member_weights(self, f: Tensor) -> Tensor:
        """(E, B) weights w_e >= 0, summing to 1, with grad f = sum_e w_e grad f_e."""
        if self.reduction == "softmax":
            return torch.softmax(f / self.temperature, dim=0)
        return torch.full_like(f, 1.0 / f.shape[0])
