"""Last layers of a policy: the action leaves them inside a constraint's set, with exact gradients.

``ActionProjection`` takes the nearest action of the set, ``OptNetHead`` the minimiser over it of a quadratic that the
network chooses. Neither knows of reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from icnn_rl.checks import check_choice, check_float_tensor, check_last_dim, check_positive_int, check_range
from icnn_rl.constraints.base import (
    NEARLY,
    ActionConstraint,
    Fallback,
    Observation,
    backup,
    check_not_empty,
    intersect,
    warn_empty,
)
from icnn_rl.eager import eager
from icnn_rl.first_order import last_derivative
from icnn_rl.qp.problem import Diagonal
from icnn_rl.sets import ConvexSet
from icnn_rl.solution import Status

__all__ = ["ActionProjection", "HeadOutput", "OptNetHead"]


class HeadOutput(NamedTuple):
    """What a head made of a batch.

    action (B, n), differentiable; moved (B,): Euclidean distance from the raw action, in the head's units; status (B,):
    see :class:`icnn_rl.Status`, of rows already inside the set SUCCESS.
    """

    action: Tensor
    moved: Tensor
    status: Tensor


class FeasibleActions(nn.Module):
    """{ x : scale * x + offset is in C(obs), low <= scale * x + offset <= high }: a constraint and the action space's
    bounds, in the units of a policy.

    Args:
        constraint: in the environment's units; None: the bounds alone.
        low, high: bounds of the action space, numbers or (n,), in the environment's units; None: none.
        scaled: x lives in [-1, 1]: x = 2 (a - low) / (high - low) - 1. Both bounds must be finite.
        fallback: see :meth:`icnn_rl.constraints.ActionConstraint.project`, in the environment's units.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(
        self, constraint: ActionConstraint | None, low: Any, high: Any, *, scaled: bool, fallback: Fallback
    ) -> None:
        super().__init__()
        if constraint is not None and not isinstance(constraint, ActionConstraint):
            raise ValueError(f"constraint: expected an ActionConstraint, got {type(constraint).__name__}.")
        if isinstance(fallback, str):
            check_choice("fallback", fallback, ("least_violation", "error"))
        self.constraint, self.scaled, self.fallback = constraint, scaled, fallback
        self._made: dict[Any, list[ConvexSet]] = {}
        for name, bound in (("low", low), ("high", high)):
            value = None if bound is None else torch.as_tensor(bound, dtype=torch.float64).detach().clone()
            self.register_buffer(name, value, persistent=False)
        if scaled and not self._finite():
            raise ValueError(f"low, high: scaled actions need finite bounds low < high, got {low} and {high}.")

        self._warned = False  # of an empty set, once
        if constraint is not None and not constraint.depends_on_state and low is not None and high is not None:
            low, high = (torch.as_tensor(bound, dtype=torch.float64).reshape(-1) for bound in (low, high))
            if max(len(low), len(high)) > 1:  # of numbers it is not known for how many actions they are
                check_not_empty(constraint, low.expand(len(low + high)), high.expand(len(low + high)))

    def _finite(self) -> bool:
        low, high = self.low, self.high
        if low is None or high is None:
            return False
        return bool((torch.isfinite(low) & torch.isfinite(high) & (low < high)).all())

    def units(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """scale and offset, (n,); None where x is the action itself."""
        if not self.scaled:
            return None
        assert self.low is not None
        assert self.high is not None
        n = like.shape[-1]
        low, high = self.low.to(like).expand(n), self.high.to(like).expand(n)
        return 0.5 * (high - low), 0.5 * (high + low)

    def at(self, obs: Observation | None, like: Tensor) -> ConvexSet:
        """The set for a batch; ``like`` (B, n) gives dtype and device."""
        parts = self._constant(obs, like)
        if self.constraint is not None and self.constraint.depends_on_state:
            parts = [self._own_units(self.constraint, obs, like), *parts]
        if len(parts) > 1:
            return intersect(parts, like.shape[-1])
        return parts[0] if parts else ConvexSet()

    def _constant(self, obs: Observation | None, like: Tensor) -> list[ConvexSet]:
        """The set that does not depend on the state, if there is one: made once."""
        key = like.shape[-1], like.dtype, like.device
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():  # it serves later calls in other modes
                parts = self._bounds(like)
                if self.constraint is not None and not self.constraint.depends_on_state:
                    parts = [self._own_units(self.constraint, obs, like), *parts]
                self._made[key] = [intersect(parts, like.shape[-1])] if parts else []
        return self._made[key]

    def _bounds(self, like: Tensor) -> list[ConvexSet]:
        n = like.shape[-1]
        if self.scaled:
            return [ConvexSet(lb=like.new_full((n,), -1.0), ub=like.new_full((n,), 1.0))]
        lb, ub = (None if b is None else b.to(like).expand(n) for b in (self.low, self.high))
        return [] if lb is None and ub is None else [ConvexSet(lb=lb, ub=ub)]

    def _own_units(self, constraint: ActionConstraint, obs: Observation | None, like: Tensor) -> ConvexSet:
        own, units = constraint.at(_observation(constraint, obs, like), like.shape[-1]).to(like), self.units(like)
        own, _ = (own if units is None else own.affine(*units)).in_unit_rows()
        return own

    def violation(self, found: ConvexSet, obs: Observation | None, x: Tensor) -> Tensor:
        """Largest violation, <= 0 inside, in the units of x: (B,). Of a set with auxiliary variables, in the units of
        the action."""
        if not found.lifted:
            return found.violation(x)
        assert self.constraint is not None
        units = self.units(x)
        a = x if units is None else x * units[0] + units[1]
        outside = self.constraint.violation(_observation(self.constraint, obs, x), a)
        n = x.shape[-1]
        bounds = ConvexSet(lb=_own(found.lb, n), ub=_own(found.ub, n))
        return torch.maximum(outside, bounds.violation(x))

    def settle(
        self, found: ConvexSet, obs: Observation | None, x: Tensor, proposal: Tensor, status: Tensor, unknown: Tensor
    ) -> Tensor:
        """``x`` where it was found; without a gradient the fallback where the set is empty, and the least violating
        point where the solve stopped short further than 1e-6 outside of it; NaN in the ``unknown`` rows (B,) and where
        something else that the solve was given is not finite."""
        failed = status != Status.SUCCESS
        if not bool(failed.any()):
            return x
        with torch.no_grad():
            unknown = unknown | (status == Status.NONFINITE_INPUT)
            lost = failed & ~unknown & ~(self.violation(found, obs, x) <= NEARLY)
            usable = self._instead(found, obs, x, proposal, status, lost) if bool(lost.any()) else x
            usable = torch.where(unknown.unsqueeze(-1), torch.nan, usable)
        return torch.where(failed.unsqueeze(-1), usable.detach(), x)

    def _instead(
        self, found: ConvexSet, obs: Observation | None, x: Tensor, proposal: Tensor, status: Tensor, lost: Tensor
    ) -> Tensor:
        empty = lost & (status == Status.PRIMAL_INFEASIBLE)
        proposal, units = proposal.detach(), self.units(x)
        if bool((lost & ~empty).any()):
            near = backup("least_violation", obs, found, proposal, lost)
            x = torch.where(lost.unsqueeze(-1), near, x)
        if bool(empty.any()):
            if not self._warned and not (isinstance(self.fallback, str) and self.fallback == "error"):
                self._warned = True
                warn_empty(f"{int(empty.sum())} of {len(empty)} states")
            other = backup(self.fallback, obs, found, proposal, empty, low=self.low, high=self.high, units=units)
            x = torch.where(empty.unsqueeze(-1), other, x)
        return x


class _Counting(nn.Module):
    """A head: its set, and what happened to the rows that went through it."""

    def __init__(self, actions: FeasibleActions, penalty: float) -> None:
        super().__init__()
        self.actions = actions
        self.penalty = check_range("penalty", penalty, 0.0, float("inf"))
        #: Rows seen, rows whose raw action (or unconstrained minimiser) was outside of the set, and rows whose solve
        #: failed, since the module was built.
        self.rows = self.moved = self.failed = 0

    def _count(self, outside: int, status: Tensor) -> None:
        self.rows += status.numel()
        self.moved += outside
        self.failed += int((status != Status.SUCCESS).sum())

    def _finish(
        self, raw: Tensor, wide: Tensor, value: Tensor, status: Tensor, return_output: bool
    ) -> Tensor | HeadOutput:
        action = value.to(raw.dtype)
        if self.penalty and torch.is_grad_enabled() and raw.requires_grad:
            action = _Penalised.apply(raw, action, self.penalty)  # type: ignore[no-untyped-call]
        if not return_output:
            return action
        with torch.no_grad():
            return HeadOutput(action, (value - wide).norm(dim=-1).to(raw.dtype), status)


class ActionProjection(_Counting):
    """The nearest action of a constraint's set,

        a = argmin_x 1/2 ||x - raw||^2   subject to   x in C(obs),  low <= x <= high,

    exact, and differentiable in ``raw`` and in what the constraint makes of ``obs``. Inside the set the gradient is the
    identity, on a smooth piece of the border the projector onto its tangent, in a corner 0; on a kink it is an element
    of the generalised Jacobian. Rows already inside are passed through: only the others are solved.

    Computed in float64. Of float32 actions the result is rounded to float32: feasible to about 1e-7 of the units, and
    gradients likewise.

    Args:
        constraint: in the environment's units.
        low, high: bounds of the action space, numbers or (n,), in the environment's units; None: none.
        scaled: actions come and go in [-1, 1], x = 2 (a - low) / (high - low) - 1, as inside the policies of SAC and
            TD3. Distances are measured in these units then.
        penalty: lambda >= 0. The backward pass adds the gradient of lambda mean_b ||raw_b - a_b||^2, as if the loss had
            that term (``loss.backward()`` with a factor of 1 before everything else): where a projection maps many raw
            actions to one, the loss alone would leave them where they are. The distance to a convex set is
            differentiable, with gradient (raw - a) / distance, so that d/d raw ||raw - a||^2 = 2 (raw - a) exactly.
        fallback: for states in which the set is empty: "least_violation", "error", an action, or a function of the
            observations, see :meth:`icnn_rl.constraints.ActionConstraint.project`. Failed rows pass no gradient on;
            they are counted in ``failed``. Where the raw action or the observation holds NaN the action is NaN: it is
            never turned into numbers.

    Raises:
        ValueError: a wrong argument.

    Example:
        >>>         >>> layer = ActionProjection(ActionConstraint.linear([[1.0, 1.0]], [1.0]))
        >>> layer(torch.zeros(1, 3), torch.tensor([[1.0, 1.0]]))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        constraint: ActionConstraint,
        low: Any = None,
        high: Any = None,
        *,
        scaled: bool = False,
        penalty: float = 0.0,
        fallback: Fallback = "least_violation",
    ) -> None:
        super().__init__(FeasibleActions(constraint, low, high, scaled=scaled, fallback=fallback), penalty)

    @overload
    def forward(
        self,
        obs: Observation | None,
        action: Tensor,
        *,
        within: ConvexSet | None = None,
        return_output: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        obs: Observation | None,
        action: Tensor,
        *,
        within: ConvexSet | None = None,
        return_output: Literal[True],
    ) -> HeadOutput: ...

    @eager("ActionProjection")
    def forward(
        self,
        obs: Observation | None,
        action: Tensor,
        *,
        within: ConvexSet | None = None,
        return_output: bool = False,
    ) -> Tensor | HeadOutput:
        """
        Args:
            obs: (B, d), or the mapping that the constraint reads from; in the environment's units. None where the
                constraint does not depend on it.
            action: raw, (B, n).
            within: ``self.actions.at(obs, action.double())``, where the caller has it already.
            return_output: return the :class:`HeadOutput`.

        Raises:
            EmptySetError: some set is empty, and ``fallback`` is "error".
        """
        check_float_tensor("action", action)
        if action.dim() != 2:
            raise ValueError(f"action: expected shape (B, n), got {tuple(action.shape)}.")
        wide = action.double()
        found = self.actions.at(obs, wide) if within is None else within
        with torch.no_grad():
            outside = ~(self.actions.violation(found, obs, wide) <= 0)  # NaN is outside
        index = outside.nonzero().squeeze(-1)
        value, status = wide, torch.zeros_like(outside, dtype=torch.int64)
        if index.numel():
            if index.numel() == len(outside):
                solved = found.project(wide, throw=False)
                value, status = solved.value, solved.status
            else:
                solved = found.rows(index).project(wide[index], throw=False)
                value = wide.index_copy(0, index, solved.value)
                status = status.index_copy(0, index, solved.status)
            value = self.actions.settle(found, obs, value, wide, status, wide.isnan().any(-1))
        self._count(index.numel(), status)
        return self._finish(action, wide, value, status, return_output)


class OptNetHead(_Counting):
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


class _Penalised(torch.autograd.Function):
    """The action, unchanged; backward adds the gradient of weight * mean_b ||raw_b - action_b||^2 to raw's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor, action: Tensor, weight: float) -> Tensor:
        return action.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        raw, action, ctx.weight = inputs
        ctx.save_for_backward(raw, action)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        raw, action = ctx.saved_tensors
        pull = raw.detach() - action.detach()
        pull = torch.where(pull.isnan().any(-1, keepdim=True), 0.0, pull) * (2.0 * ctx.weight / max(len(raw), 1))
        return last_derivative(pull, raw), grads[0], None


class _Wide(Mapping[str, Tensor]):
    """Dict observations in another dtype, each part cast when it is read."""

    def __init__(self, parts: Mapping[str, Tensor], like: Tensor) -> None:
        self.parts, self.like = parts, like

    def __getitem__(self, key: str) -> Tensor:
        return self.parts[key].to(self.like)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _observation(constraint: ActionConstraint, obs: Observation | None, like: Tensor) -> Observation:
    """Observations in the dtype of the solve."""
    if obs is None:
        if constraint.depends_on_state:
            raise ValueError("obs: missing. The constraint depends on the observation.")
        return like.new_zeros(1, 0)
    return _Wide(obs, like) if isinstance(obs, Mapping) else obs.to(like)


def _own(bound: Any, n: int) -> Any:
    return bound[..., :n] if isinstance(bound, Tensor) and bound.dim() else bound


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
