"""A quadratic programme over a constraint's set that a network chooses, as the last layer of a policy."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from icnn_rl.checks import check_choice, check_float_tensor, check_last_dim, check_positive_int, check_range
from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.fallback import NEARLY, Fallback
from icnn_rl.constraints.feasible_actions import FeasibleActions
from icnn_rl.constraints.head import AbstractHead, HeadOutput
from icnn_rl.constraints.observations import Observation
from icnn_rl.eager import eager
from icnn_rl.qp.problem import Diagonal
from icnn_rl.sets import ConvexSet, intersect

__all__ = ["OptNetHead"]


class OptNetHead(AbstractHead):
    """A quadratic programme whose parts a network makes from the state's features (OptNet):

        a = argmin_x 1/2 x^T Q(s) x + p(s)^T x   subject to   x in C(obs),  low <= x <= high,
                                                              G(s) x <= G(s) z0 + s0(s),   A(s) x = A(s) z0.

    Q = L L^T + eps I with L lower triangular and a positive diagonal, or a diagonal; s0 >= 0. At features of 0 all are
    constants that are learned. The learned rows can never empty the set, in any state: the point z0 = z0(s, obs) that
    they all contain is the projection of a learned one onto C(obs) and the bounds, so it is in all of them. What is
    left is a C(obs) that is itself empty, reported as PRIMAL_INFEASIBLE.

    With ``centre`` c given to the call, p = -Q c: the nearest point to c in the metric of Q. Every strictly convex
    quadratic is of that form; a policy whose raw action has a density samples c.

    Args:
        features_dim: size of the features.
        n_actions: n.
        constraint: or None.
        low, high, scaled, penalty, fallback: as for :class:`ActionProjection`; the penalty is on ||c - a||^2 and needs
            a ``centre``.
        quadratic: "cholesky" or "diagonal".
        n_ineq, n_eq: numbers of learned rows.
        linear: produce p(s); False: every call brings a ``centre``.
        eps: > 0, the least eigenvalue of Q.

    Raises:
        ValueError: a wrong argument.

    Example:
        >>> head = OptNetHead(8, 2, low=-1.0, high=1.0, n_ineq=3)
        >>> head(torch.randn(5, 8)).shape
        torch.Size([5, 2])

    References:
        B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017.
    """

    def __init__(
        self,
        features_dim: int,
        n_actions: int,
        constraint: ActionConstraint | None = None,
        low: Any = None,
        high: Any = None,
        *,
        scaled: bool = False,
        quadratic: str = "cholesky",
        n_ineq: int = 0,
        n_eq: int = 0,
        linear: bool = True,
        eps: float = 0.1,
        penalty: float = 0.0,
        fallback: Fallback = "least_violation",
    ) -> None:
        super().__init__(FeasibleActions(constraint, low, high, scaled=scaled, fallback=fallback), penalty)
        n = self.n_actions = check_positive_int("n_actions", n_actions)
        self.features_dim = check_positive_int("features_dim", features_dim)
        self.quadratic = check_choice("quadratic", quadratic, ("cholesky", "diagonal"))
        self.n_ineq, self.n_eq = (v if v == 0 else check_positive_int("n_ineq, n_eq", v) for v in (n_ineq, n_eq))
        if n_eq >= n:
            raise ValueError(f"n_eq: expected fewer than the {n} actions, got {n_eq}; nothing would be left to choose.")
        if penalty and linear:
            raise ValueError("penalty: it is on the distance from a centre; build the head with linear=False.")
        self.eps = check_range("eps", eps, 0.0, float("inf"), open_low=True)
        rows = n_ineq + n_eq
        self.sizes = {
            "p": n if linear else 0,
            "Q": n * (n + 1) // 2 if quadratic == "cholesky" else n,
            "z0": n if rows else 0,
            "s0": n_ineq,
            "G": n_ineq * n,
            "A": n_eq * n,
        }
        self.net = nn.Linear(features_dim, sum(self.sizes.values()))
        self._start()

    def _start(self) -> None:
        """Q near the identity, z0 near 0, slacks near 1, rows of random directions: whatever the features."""
        with torch.no_grad():
            self.net.weight.mul_(0.1)
            for name, part in self._split(self.net.bias).items():
                part.zero_() if name not in ("G", "A") else part.normal_(std=self.n_actions**-0.5)

    @overload
    def forward(
        self,
        features: Tensor,
        obs: Observation | None = None,
        centre: Tensor | None = None,
        *,
        return_output: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        features: Tensor,
        obs: Observation | None = None,
        centre: Tensor | None = None,
        *,
        return_output: Literal[True],
    ) -> HeadOutput: ...

    @eager("OptNetHead")
    def forward(
        self,
        features: Tensor,
        obs: Observation | None = None,
        centre: Tensor | None = None,
        *,
        return_output: bool = False,
    ) -> Tensor | HeadOutput:
        """
        Args:
            features: (B, features_dim).
            obs: what the constraint reads, in the environment's units; None where it does not depend on it.
            centre: (B, n), the unconstrained minimiser, in the head's units.
            return_output: return the :class:`HeadOutput`; ``moved`` is the distance from the unconstrained minimiser.

        Raises:
            ValueError: a centre is given and the head makes its own p, or neither.
            EmptySetError: some set is empty, and ``fallback`` is "error".
        """
        check_last_dim("features", check_float_tensor("features", features), self.features_dim)
        if (centre is None) != (self.sizes["p"] > 0):
            raise ValueError("centre: expected exactly where the head was built with linear=False.")
        parts = self._split(self.net(features).double())
        Q = self._quadratic(parts["Q"])
        p = parts["p"] if centre is None else -_product(Q, centre.double())
        outer = self.actions.at(obs, p)
        found = self._with_rows(outer, obs, parts)
        solved = found.minimise(Q, p, throw=False)
        with torch.no_grad():
            unknown = (Q.d if isinstance(Q, Diagonal) else Q.flatten(-2)).isnan().any(-1) | p.isnan().any(-1)
            free = _free_minimiser(Q, p) if centre is None else centre.double()
        value = self.actions.settle(outer, obs, solved.value, free, solved.status, unknown)
        with torch.no_grad():
            outside = ((value - free).norm(dim=-1) > NEARLY).sum()
        self._count(int(outside), solved.status)
        return self._finish(
            features.new_empty(0) if centre is None else centre, free, value, solved.status, return_output
        )

    def _split(self, numbers: Tensor) -> dict[str, Tensor]:
        """(..., all) into p, Q, z0, s0, G and A, by name."""
        return dict(zip(self.sizes, torch.split(numbers, list(self.sizes.values()), -1), strict=True))

    def _quadratic(self, free: Tensor) -> Tensor | Diagonal:
        n = self.n_actions
        if self.quadratic == "diagonal":
            return Diagonal(_positive(free) + self.eps)
        lower = free.new_zeros(*free.shape[:-1], n, n)
        i, j = torch.tril_indices(n, n, device=free.device)
        lower = lower.index_put((torch.arange(len(free), device=free.device).unsqueeze(-1), i, j), free)
        diagonal = lower.diagonal(dim1=-2, dim2=-1)
        lower = lower + torch.diag_embed(_positive(diagonal) - diagonal)
        return lower @ lower.mT + self.eps * torch.eye(n, dtype=free.dtype, device=free.device)

    def _with_rows(self, outer: ConvexSet, obs: Observation | None, parts: dict[str, Tensor]) -> ConvexSet:
        """The set with the learned rows; all contain z0, which is in ``outer``."""
        if not (self.n_ineq or self.n_eq):
            return outer
        n = self.n_actions
        z0 = outer.project(parts["z0"], throw=False)
        unknown = parts["z0"].isnan().any(-1)
        point = self.actions.settle(outer, obs, z0.value, parts["z0"], z0.status, unknown).unsqueeze(-1)
        rows: dict[str, Any] = {}
        for matrix, right, count in (("G", "h", self.n_ineq), ("A", "b", self.n_eq)):
            if count:
                rows[matrix] = parts[matrix].reshape(-1, count, n)
                rows[right] = (rows[matrix] @ point).squeeze(-1)
        if self.n_ineq:
            rows["h"] = rows["h"] + _positive(parts["s0"])
        return intersect([outer, ConvexSet(**rows)], n)

    def extra_repr(self) -> str:
        return f"{self.features_dim}, {self.n_actions}, quadratic={self.quadratic!r}, eps={self.eps:g}"


def _positive(free: Tensor) -> Tensor:
    """softplus, 1 at 0."""
    return softplus(free + 0.5413248546129181)  # log(e - 1)


def _product(Q: Tensor | Diagonal, v: Tensor) -> Tensor:
    return Q.d * v if isinstance(Q, Diagonal) else (Q @ v.unsqueeze(-1)).squeeze(-1)


def _free_minimiser(Q: Tensor | Diagonal, p: Tensor) -> Tensor:
    """-Q^{-1} p."""
    if isinstance(Q, Diagonal):
        return -p / Q.d
    solved: Tensor = torch.linalg.solve(Q, -p)
    return solved
