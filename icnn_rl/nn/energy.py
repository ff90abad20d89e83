"""A convex network with its context fixed: a function of y alone, with closed-form derivatives.

Both networks of the paper end here. With z_0 absent and, for every layer i = 0 .. k-1,

    p_i = W_i^(z) (z_i * zgate_i) + W_i^(y) (y * ygate_i) + c_i,          z_{i+1} = g(p_i)
    f   = wout . z_k + lin . y + c_k + 1/2 sum_j q_j y_j^2 + 1/2 |R y|^2,   W^(z), zgate, wout, q >= 0

the gates and offsets have been computed from the context once (or are constants, in a fully convex network). Value,
gradient and Hessian in y are then a handful of matrix products and need no autograd graph:

    reverse:   d_k  = wout
               d_i  = zgate_i * W_i^(z)T ( d_{i+1} * g'(p_i) )
               grad = sum_i ygate_i * W_i^(y)T ( d_{i+1} * g'(p_i) ) + lin + q * y + R^T R y

    forward:   J_0  = W_0^(y) diag(ygate_0)
               J_i  = W_i^(z) diag( zgate_i * g'(p_{i-1}) ) J_{i-1} + W_i^(y) diag(ygate_i)

    Hessian:   H    = sum_i J_i^T diag( d_{i+1} * g''(p_i) ) J_i + diag(q) + R^T R

Here J_i is the Jacobian of p_i in y, and d_i the derivative of f in z_i.
J_0 has the form (fixed matrix) x diagonal, so the first layer's part of H is one product with the table of outer
products of the rows of W_0^(y); only deeper layers need a Jacobian for each sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from icnn_rl.checks import check_choice, check_float_tensor, check_last_dim, check_range, check_same_kind
from icnn_rl.eager import full_precision
from icnn_rl.nn.activations import ConvexActivation
from icnn_rl.nn.linear import affine

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


class _Head(NamedTuple):
    """The terms of f beside its layers. Of a mean over members: the mean of each term, and wout / E, so that the
    members' layers only have to be added up."""

    out_weight: Tensor  # (E, B, h_k)
    linear: Tensor  # (E, B, n), or (B, n) for the mean; likewise below
    constant: Tensor
    quadratic: Tensor


class OneLayer(NamedTuple):
    """f where it is one layer of squareplus units: what compiled code needs to know of it. E members, B rows (1 where a
    tensor does not depend on the row)."""

    passthrough: Tensor  # (E, h, n)
    y_gate: Tensor | None  # (E, B, n)
    offset: Tensor  # (E, B, h)
    out_weight: Tensor  # (E, B, h), summed over members
    linear: Tensor  # (B, n)
    constant: Tensor  # (B,)
    quadratic: Tensor  # (B, n)
    square_width: float


Part = TypeVar("Part")
Kept = TypeVar("Kept")


def present(part: Part | None) -> Part:
    """``part``, for the type checker's sake."""
    assert part is not None
    return part


def _outer(x: Tensor) -> Tensor:
    """x x^T: (..., n) -> (..., n, n)."""
    return x[..., :, None] * x[..., None, :]


def _scaled(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * gate


def _slope(linear: Tensor, quadratic: Tensor, gram: Tensor | None, y: Tensor, share: float = 1.0) -> Tensor:
    """lin + share (q * y + R^T R y)."""
    slope = torch.addcmul(linear, quadratic, y, value=share)
    return slope if gram is None else slope + share * torch.matmul(y, gram)


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
        root: R (E, r, n), the same in all rows; None: no such term.
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
    root: Tensor | None = None

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_range("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        self.squeeze = self.squeeze and self.reduction == "none"  # a reduction has no member dimension left
        self._kept: dict[tuple[str, bool], Any] = {}

    def _once(self, name: str, make: Callable[[], Kept]) -> Kept:
        """Make what does not depend on y once; and once more with a graph, where the first was made without."""
        key = name, torch.is_grad_enabled()
        if key not in self._kept:
            self._kept[key] = make()
        kept: Kept = self._kept[key]
        return kept

    @property
    def _head(self) -> _Head:
        """Not before it is asked for: a loss over the members' values never does."""
        head = _Head(self.out_weight, self.linear, self.constant, self.quadratic)
        if self.reduction != "mean":
            return head
        return self._once(
            "head", lambda: _Head(self.out_weight / len(self.linear), *(term.mean(0) for term in head[1:]))
        )

    @property
    def gram(self) -> Tensor | None:
        """R^T R (E, n, n), or its mean (n, n) where f is the mean of the members; None without R."""
        root = self.root
        if root is None:
            return None

        def product() -> Tensor:
            gram = torch.matmul(root.mT, root)
            return gram.mean(0) if self.reduction == "mean" else gram

        return self._once("gram", product)

    def _least_curvature_of_root(self) -> Tensor | float:
        """The smallest eigenvalue of R^T R (E, 1, 1), or (1, 1) for the mean, less what it may be off by."""
        gram = self.gram
        if gram is None:
            return 0.0

        def smallest() -> Tensor:
            finite = gram.detach().nan_to_num(0.0, 0.0, 0.0)  # LAPACK refuses others; f is no number then anyway
            values = torch.linalg.eigvalsh(finite)
            rounding = 4 * (gram.shape[-1] + present(self.root).shape[-2]) * torch.finfo(gram.dtype).eps
            least: Tensor = (values[..., 0] - rounding * values[..., -1]).clamp(min=0.0)
            return least[..., None, None]

        return self._once("least curvature of root", smallest)

    def _outer_products(self) -> Tensor:
        return self._once("outer products", lambda: _outer(self.layers[0].passthrough).flatten(-2))  # (E, h, n*n)

    def _gate_products(self) -> Tensor:
        return self._once("gate products", lambda: _outer(present(self.layers[0].y_gate)))

    def _first_jacobian(self) -> Tensor:
        """(E, B, n, h), transposed."""
        first = self.layers[0]
        gate = 1.0 if first.y_gate is None else first.y_gate[..., :, None]
        return self._once("first Jacobian", lambda: first.passthrough.mT.unsqueeze(1) * gate)

    @property
    def smooth(self) -> bool:
        """Whether f is twice differentiable in y."""
        return self.activation.smooth

    @property
    def curvature(self) -> Tensor:
        """m (B, n) or (E, B, n): f - 1/2 sum_j m_j y_j^2 is still convex. Solvers turn it into certificates."""
        if self.reduction == "softmax":
            return (self.quadratic + self._least_curvature_of_root()).amin(0)
        quadratic = self._head.quadratic
        if self.root is not None:
            quadratic = quadratic + self._least_curvature_of_root()
        return quadratic.squeeze(0) if self.squeeze else quadratic

    @property
    def separable(self) -> bool:
        """Whether the energy is one number a row, so that :meth:`rows` makes sense."""
        return self.reduction != "none" or self.squeeze

    def rows(self, index: Tensor) -> EnsembleEnergy:
        """The energy of the rows at ``index`` alone. Tensors that do not depend on the row are shared."""

        def pick(part: Tensor | None) -> Tensor | None:
            return part if part is None or part.shape[1] == 1 else part.index_select(1, index)

        layers = [
            ConvexLayer(present(pick(one.offset)), one.passthrough, pick(one.y_gate), one.weight, pick(one.z_gate))
            for one in self.layers
        ]
        chosen = dataclasses.replace(
            self,
            layers=layers,
            out_weight=present(pick(self.out_weight)),
            linear=present(pick(self.linear)),
            constant=present(pick(self.constant)),
            quadratic=present(pick(self.quadratic)),
        )
        chosen._kept = {key: kept for key, kept in self._kept.items() if key[0] == "outer products"}
        return chosen

    def tilted(self, p: Tensor) -> EnsembleEnergy:
        """f(y) - p . y, whose minimiser is the gradient of the conjugate f* at p: p (B, n) or (n,), live.

        p goes into the linear head, so that closed forms, curvature and compiled code stay as they are, and the
        gradient is small where f's is near p: in float32 a difference of two large values would not be.
        """
        check_last_dim("p", check_float_tensor("p", p), self.linear.shape[-1])
        check_same_kind("p", p, "the energy", self.linear)
        if p.dim() > 1 and p.shape[-2] != self.linear.shape[-2] and 1 not in (p.shape[-2], self.linear.shape[-2]):
            raise ValueError(f"p: expected {self.linear.shape[-2]} rows, as the energy has, got {p.shape[-2]}.")
        linear = self.linear - p  # of every member: a mean and a soft maximum of members lose p . y like each of them
        tilted = dataclasses.replace(
            self,
            linear=linear,
            constant=self.constant.expand(linear.shape[:-1]),
            quadratic=self.quadratic.expand_as(linear),
        )
        tilted._kept = {key: kept for key, kept in self._kept.items() if key[0] != "head"}
        return tilted

    def double(self) -> EnsembleEnergy:
        """The same function in float64, with its graph."""
        layers = [ConvexLayer._make(None if part is None else part.double() for part in one) for one in self.layers]
        names = ("out_weight", "linear", "constant", "quadratic")
        parts = {name: getattr(self, name).double() for name in names}
        return dataclasses.replace(self, layers=layers, root=None if self.root is None else self.root.double(), **parts)

    def blur(self, variance: Tensor) -> list[Tensor] | None:
        """What a spread of y, of this variance (B, n), (n,) or (), makes of the input of every hidden unit, layer by
        layer: for :meth:`grad_hessian`. In deeper layers only the part that comes from y itself. None where the average
        of the activation is not known, or f is no mean of members."""
        if self.activation.blurred is None or self.reduction == "softmax":
            return None
        variance = variance * variance.new_ones(1, self.linear.shape[-1])
        spreads = (variance if one.y_gate is None else variance * one.y_gate.square() for one in self.layers)
        return [torch.matmul(s, one.passthrough.square().mT) for s, one in zip(spreads, self.layers, strict=True)]

    def one_layer(self) -> OneLayer | None:
        """f in the form that compiled code knows, if it has it."""
        width = self.activation.square_width
        if (
            width is None
            or len(self.layers) != 1
            or not (self.reduction == "mean" or self.squeeze)
            or self.root is not None
        ):
            return None
        first, head = self.layers[0], self._head
        linear, constant, quadratic = (term.squeeze(0) if self.squeeze else term for term in head[1:])
        return OneLayer(
            first.passthrough, first.y_gate, first.offset, head.out_weight, linear, constant, quadratic, width
        )

    def start(self) -> Tensor:
        """(B, n) of zeros: a starting point of the right shape, dtype and device."""
        return self.linear.new_zeros(self.linear.shape[-2:])

    @full_precision
    def __call__(self, y: Tensor) -> Tensor:
        f = self.member_values(y)
        if self.reduction == "mean":
            return f.mean(0)
        if self.reduction == "softmax":
            return self._soft_maximum(f)
        return f.squeeze(0) if self.squeeze else f

    @full_precision
    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f and its gradient in y, shapes (B,) and (B, n), or with a leading E for reduction "none"."""
        trace, z = self._forward(y)
        f = self._value(z, y)
        g, _ = self._reverse(trace, y)
        if self.reduction == "softmax":
            return self._soft_maximum(f), (self._member_weights(f)[..., None] * g).sum(0)
        return (f.squeeze(0), g.squeeze(0)) if self.squeeze else (f, g)

    @full_precision
    def value_grad_hessian(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f, its gradient and its Hessian in y: (B,), (B, n), (B, n, n), or with a leading E for reduction "none"."""
        trace, z = self._forward(y)
        f = self._value(z, y)
        g, adjoints = self._reverse(trace, y)
        h = self._hessian(trace, adjoints, g)
        if self.reduction == "softmax":
            # soft maximum: H = sum_e w_e H_e + ( sum_e w_e g_e g_e^T - g g^T ) / temperature
            weights = self._member_weights(f)
            gradient = (weights[..., None] * g).sum(0)
            spread = torch.einsum("eb,ebi,ebj->bij", weights, g, g) - gradient[:, :, None] * gradient[:, None, :]
            return self._soft_maximum(f), gradient, (weights[..., None, None] * h).sum(0) + spread / self.temperature
        return (f.squeeze(0), g.squeeze(0), h.squeeze(0)) if self.squeeze else (f, g, h)

    @full_precision
    def grad_hessian(self, y: Tensor, blur: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian of the average of f over the spread that ``blur`` stands for, nearly."""
        trace, _ = self._forward(y, blur)
        g, adjoints = self._reverse(trace, y)
        h = self._hessian(trace, adjoints, g)
        return (g.squeeze(0), h.squeeze(0)) if self.squeeze else (g, h)

    @full_precision
    def member_values(self, y: Tensor) -> Tensor:
        """(E, B): every member's value, whatever the reduction."""
        z: Tensor | None = None
        for layer in self.layers:
            z = self.activation.value(self._pre_activation(layer, z, y))
        gram = None if self.root is None else torch.matmul(self.root.mT, self.root)
        f = (_slope(self.linear, self.quadratic, gram, y, 0.5) * y).sum(-1) + self.constant
        return f if z is None else f + (self.out_weight * z).sum(-1)

    # the sweeps: of every member, or, for the mean, of the sum of its layers

    def _total(self, parts: Tensor) -> Tensor:
        """The share of f, or of a derivative, that the members' layers (E, ...) contribute."""
        return parts.sum(0) if self.reduction == "mean" else parts

    def _pre_activation(self, layer: ConvexLayer, z: Tensor | None, y: Tensor) -> Tensor:
        p = affine(_scaled(y, layer.y_gate), layer.passthrough, layer.offset)
        if layer.weight is None or z is None:
            return p
        return affine(_scaled(z, layer.z_gate), layer.weight, p)

    def _forward(self, y: Tensor, blur: list[Tensor] | None = None) -> tuple[_Trace, Tensor | None]:
        trace = _Trace([], [])
        z: Tensor | None = None
        for i, layer in enumerate(self.layers):
            p = self._pre_activation(layer, z, y)
            if blur is None:
                z, slope, bend = self.activation.jet(p)
            else:
                z, slope, bend = present(self.activation.blurred)(p, blur[i])
            trace.slope.append(slope)
            trace.bend.append(bend)
        return trace, z

    def _value(self, z: Tensor | None, y: Tensor) -> Tensor:
        head = self._head
        f = (_slope(head.linear, head.quadratic, self.gram, y, 0.5) * y).sum(-1) + head.constant
        return f if z is None else f + self._total((head.out_weight * z).sum(-1))

    def _reverse(self, trace: _Trace, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradient in y, and the adjoints d_{i+1} = df/dz_{i+1} of every layer."""
        gradient = _slope(self._head.linear, self._head.quadratic, self.gram, y)
        adjoints: list[Tensor] = []
        d = self._head.out_weight
        for layer, slope in zip(reversed(self.layers), reversed(trace.slope), strict=True):
            adjoints.append(d)
            delta = d * slope
            pulled = torch.matmul(layer.passthrough.mT, delta.mT).mT  # so, four times faster than delta W for n = 6
            gradient = gradient + self._total(_scaled(pulled, layer.y_gate))
            if layer.weight is not None:
                d = _scaled(torch.matmul(delta, layer.weight), layer.z_gate)
        return gradient, adjoints[::-1]

    def _hessian(self, trace: _Trace, adjoints: list[Tensor], gradient: Tensor) -> Tensor:
        n, gram = self.linear.shape[-1], self.gram
        if not self.layers:
            hessian = torch.diag_embed(self._head.quadratic.expand_as(gradient))
            return hessian if gram is None else hessian + gram.unsqueeze(-3)
        h0 = torch.matmul(adjoints[0] * trace.bend[0], self._outer_products())
        h0 = h0.reshape(*trace.bend[0].shape[:-1], n, n)
        if self.layers[0].y_gate is not None:
            h0 = h0 * self._gate_products()
        hessian = self._total(h0)
        hessian.diagonal(dim1=-2, dim2=-1).add_(self._head.quadratic)
        if gram is not None:
            hessian = hessian + gram.unsqueeze(-3)
        if len(self.layers) == 1:
            return hessian
        jacobian = self._first_jacobian()
        for i, layer in enumerate(self.layers[1:], start=1):
            assert layer.weight is not None
            scale = _scaled(trace.slope[i - 1], layer.z_gate)
            inner = scale[..., None, :] * jacobian
            own = layer.passthrough.mT.unsqueeze(1)
            if layer.y_gate is not None:
                own = own * layer.y_gate[..., :, None]
            carried = torch.matmul(inner.flatten(1, 2), layer.weight.mT)
            jacobian = carried.view(*inner.shape[:-1], carried.shape[-1]) + own
            curvature = (adjoints[i] * trace.bend[i])[..., None, :]
            hessian = hessian + self._total(torch.matmul(jacobian * curvature, jacobian.mT))
        return hessian

    # reductions over members

    def _soft_maximum(self, f: Tensor) -> Tensor:
        return self.temperature * torch.logsumexp(f / self.temperature, dim=0)

    def _member_weights(self, f: Tensor) -> Tensor:
        """(E, B) weights w_e >= 0, summing to 1, with grad of the soft maximum = sum_e w_e grad f_e."""
        return torch.softmax(f / self.temperature, dim=0)
