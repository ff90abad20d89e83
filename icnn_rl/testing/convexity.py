"""What both networks are tested with: the paper's equations as plain loops, and measures of convexity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from icnn_rl.nn import CONVEX_ACTIVATIONS, ICNN, PICNN

ACTIVATIONS = tuple(CONVEX_ACTIVATIONS)


def loop_icnn(net: ICNN, member: int, y: Tensor) -> Tensor:
    """Equation 2 for one y (n,), layer by layer, unit by unit where it matters."""
    z: Tensor | None = None
    for i in range(len(net.hidden)):
        p = net.passthrough[i].weight[member] @ y
        if z is None:
            assert net.passthrough[0].bias is not None
            p = p + net.passthrough[0].bias[member, 0]
        else:
            layer = net.nonneg[i - 1]
            assert layer.bias is not None
            p = p + layer.weight_nonneg[member] @ z + layer.bias[member, 0]
        z = net.activation.value(p)
    f = net.passthrough[-1].weight[member, 0] @ y + 0.5 * net.strong_convexity * (y @ y)
    if net.root is not None:
        f = f + 0.5 * (net.root[member] @ y).square().sum()
    if z is None:
        assert net.passthrough[-1].bias is not None
        return f + net.passthrough[-1].bias[member, 0, 0]
    last = net.nonneg[-1]
    assert last.bias is not None
    return f + last.weight_nonneg[member, 0] @ z + last.bias[member, 0, 0]


def loop_picnn(net: PICNN, member: int, x: Tensor, y: Tensor) -> Tensor:
    """Equation 3 for one pair x (m,), y (n,), the gates read from the last context layer."""
    u = x
    for i, layer in enumerate(net.context):
        assert layer.bias is not None
        u = layer.weight[member] @ u + layer.bias[member, 0]
        if net.norms is not None:
            u = (u - u.mean()) / torch.sqrt(u.var(unbiased=False) + 1e-5)
            u = u + net.norms[i].bias[member, 0]
        u = net.context_activation(u)
    assert net.heads.bias is not None
    read = net.heads.weight[member] @ u + net.heads.bias[member, 0]
    head, at = {}, 0
    for name, size in net._head_sizes.items():
        head[name] = read[at : at + size]
        at += size
    positive = torch.nn.functional.softplus if net.gate == "softplus" else torch.relu
    z: Tensor | None = None
    for i in range(len(net.hidden)):
        p = net.passthrough[i].weight[member] @ (y * head[f"y_gate_{i}"]) + head[f"offset_{i}"]
        if z is not None:
            p = p + net.nonneg[i - 1].weight_nonneg[member] @ (z * positive(head[f"z_gate_{i}"]))
        z = net.activation.value(p)
    f = head["linear"] @ y + head["constant"][0]
    if z is not None:
        f = f + net.nonneg[-1].weight_nonneg[member, 0] @ (z * positive(head["z_gate_out"]))
    q = torch.full_like(y, net.strong_convexity)
    if net.quadratic:
        q = q + torch.nn.functional.softplus(head["quadratic"])
    if net.root is not None:
        f = f + 0.5 * (net.root[member] @ y).square().sum()
    return f + 0.5 * (q * y * y).sum()


def midpoint_excess(f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """f(t a + (1-t) b) - t f(a) - (1-t) f(b) at three t, relative to the size of f: <= rounding for a convex f."""
    fa, fb = f(a), f(b)
    size = 1.0 + fa.abs() + fb.abs()
    worst = [(f(t * a + (1 - t) * b) - t * fa - (1 - t) * fb) / size for t in (0.25, 0.5, 0.9)]
    return torch.stack(worst).max()


def shake(net: ICNN | PICNN, loss: Callable[[], Tensor], steps: int = 12) -> None:
    """Some Adam steps that pull weights across zero."""
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
