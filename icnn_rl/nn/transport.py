"""Networks whose gradient is a given affine map to begin with, and the one that transports a Gaussian to another.

x -> A x + b with A symmetric and positive definite is the gradient of 1/2 x^T A x + b . x, and among two Gaussians the
optimal transport for the squared distance. A network begins there if its output weights w^(z) are 0, its linear head is
b, and its quadratic terms are A: diag(q) + R^T R. From there training bends it.

References:
    C. Bunne, A. Krause, M. Cuturi, Supervised training of conditional Monge maps, NeurIPS 2022, section 4; G. Peyre,
    M. Cuturi, Computational optimal transport, 2019, remark 2.31.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor
from icnn_rl.nn.icnn import ICNN
from icnn_rl.nn.linear import NonNegativeLinear, inverse_softplus
from icnn_rl.nn.picnn import PICNN

__all__ = ["gaussian_transport", "initialise_gradient_map"]


def gaussian_transport(mean: Tensor, cov: Tensor, to_mean: Tensor, to_cov: Tensor) -> tuple[Tensor, Tensor]:
    """(A, b) of the optimal transport x -> A x + b from N(mean, cov) to N(to_mean, to_cov),

        A = S^{-1/2} ( S^{1/2} T S^{1/2} )^{1/2} S^{-1/2},    b = to_mean - A mean,    S = cov, T = to_cov.

    Args:
        mean, to_mean: (..., n).
        cov, to_cov: (..., n, n), symmetric, positive definite; estimates do.

    Raises:
        ValueError: a covariance that is not symmetric or not positive definite.
    """
    values, vectors = _eigen("cov", cov, 0.0)
    _eigen("to_cov", to_cov, 0.0)
    root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
    inverse = (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT
    inner = root @ to_cov.double() @ root
    values, vectors = torch.linalg.eigh(0.5 * (inner + inner.mT))
    A = inverse @ (vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)) @ vectors.mT @ inverse
    A = 0.5 * (A + A.mT)
    b = to_mean.double() - (A @ mean.double().unsqueeze(-1)).squeeze(-1)
    return A.to(cov.dtype), b.to(cov.dtype)


@torch.no_grad()
def initialise_gradient_map(net: ICNN | PICNN, A: Tensor | None = None, b: Tensor | None = None) -> None:
    """Set the weights of ``net`` so that its gradient (in y) is A y + b, up to rounding; of a PICNN, for every context.

    All else stays as it is initialised, and learns: the output weights w^(z), which become 0, first. With
    positivity="softplus" a weight can be small but not 0, and its gradient is as small: 1e-16 instead, from where only
    an optimiser that scales its steps leaves, slowly. Take "clamp", the default.

    Args:
        net: with ``quadratic_rank=n``. Without, the quadratic terms are those of an ICNN, ``strong_convexity`` times
            the identity, and of a PICNN with ``quadratic``, a diagonal: no other A then.
        A: (n, n), symmetric, its eigenvalues at least ``strong_convexity``, larger for a PICNN with ``quadratic``; the
            identity by default.
        b: (n,); 0 by default.

    Raises:
        ValueError: A or b of a wrong shape, A that is not symmetric, or that this network cannot have for a Hessian.

    Example:
        >>> net = ICNN(2, (32, 32), quadratic_rank=2)
        >>> initialise_gradient_map(net, *gaussian_transport(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))
    """
    n = net.in_features if isinstance(net, ICNN) else net.y_features
    A = torch.eye(n, dtype=torch.float64) if A is None else check_float_tensor("A", A).cpu()
    b = torch.zeros(n, dtype=torch.float64) if b is None else check_float_tensor("b", b).cpu()
    if A.shape != (n, n) or b.shape != (n,):
        raise ValueError(f"A, b: expected shapes ({n}, {n}) and ({n},), got {tuple(A.shape)} and {tuple(b.shape)}.")
    values, _ = _eigen("A", A, net.strong_convexity)
    learned = isinstance(net, PICNN) and net.quadratic
    if not learned:
        q = torch.full((n,), net.strong_convexity, dtype=torch.float64)
    elif net.root is None:
        q = A.double().diagonal()
    else:  # half of what both can say, so that both go on learning
        q = 0.5 * (net.strong_convexity + values[0]).expand(n)
    if learned and not bool((q > net.strong_convexity).all()):
        raise ValueError(f"A: expected eigenvalues above strong_convexity={net.strong_convexity}, got {values[0]:.3g}.")

    rank = 0 if net.root is None else net.root.shape[-2]
    root = _root(A.double(), q, rank, torch.finfo(net.passthrough[0].weight.dtype).eps)
    if net.root is not None:
        net.root.copy_(root)
    if net.hidden:
        _silence(net.nonneg[-1])
    if isinstance(net, ICNN):
        net.passthrough[-1].weight.copy_(b)
        return
    heads: dict[str, Tensor] = {"linear": b}
    if learned:
        heads["quadratic"] = inverse_softplus(q - net.strong_convexity)
    for name, value in heads.items():
        part = net.head_slice(name)
        net.heads.weight[..., part, :] = 0.0
        assert net.heads.bias is not None
        net.heads.bias[..., part] = value.to(net.heads.bias)


def _eigen(name: str, matrix: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors, in float64, of what must be symmetric, with eigenvalues >= least, and
    > 0."""
    check_float_tensor(name, matrix)
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name}: expected shape (..., n, n), got {tuple(matrix.shape)}.")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"{name}: holds NaN or an infinite number.")
    rounding = 16 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps * float(matrix.abs().max())
    if float((matrix - matrix.mT).abs().max()) > rounding:
        raise ValueError(f"{name}: expected a symmetric matrix, got one that differs from its transpose.")
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT).double())
    lowest = float(values.min())
    if lowest <= 0 or lowest < least - rounding:
        raise ValueError(f"{name}: expected eigenvalues > 0 and at least {least}, got {lowest:.3g}.")
    return values, vectors


def _root(A: Tensor, q: Tensor, rank: int, eps: float) -> Tensor:
    """R (rank, n) with diag(q) + R^T R = A.

    Raises:
        ValueError: it takes more rows.
    """
    n = len(A)
    values, vectors = torch.linalg.eigh(A - torch.diag(q))
    values, vectors = values.flip(0), vectors.flip(1)
    needed = int((values > 16 * n * eps * A.abs().max()).sum())
    if needed > rank:
        raise ValueError(
            f"A: the quadratic terms of this network cannot be A: they would need {needed} rows in R, and there are "
            f"{rank}. Build it with quadratic_rank={n}."
        )
    rows = values.clamp(min=0.0).sqrt()[:, None] * vectors.mT
    return torch.cat((rows, rows.new_zeros(max(rank - n, 0), n)))[:rank]


def _silence(layer: NonNegativeLinear) -> None:
    """Output weights that are 0, or nearly, with a gradient that leads away from there."""
    if layer.positivity == "clamp":
        layer.weight.zero_()
    elif layer.positivity == "relu":
        layer.weight.fill_(1e-30)  # at 0 and below its gradient is 0
    else:
        layer.weight.fill_(-36.0)  # softplus: 2e-16
