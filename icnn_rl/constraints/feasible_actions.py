"""The actions that a policy may take: a constraint's set and the action space's bounds, in the policy's units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icnn_rl.constraints.base import ActionConstraint, check_constraint, check_not_empty
from icnn_rl.constraints.fallback import NEARLY, Backup, Fallback, rescued
from icnn_rl.constraints.observations import Observation, cast
from icnn_rl.sets import ConvexSet, intersect
from icnn_rl.solution import Status

__all__ = ["FeasibleActions"]


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
        self.constraint = None if constraint is None else check_constraint(constraint)
        self.scaled, self.backup = scaled, Backup(fallback)
        self._made: dict[Any, list[ConvexSet]] = {}
        for name, bound in (("low", low), ("high", high)):
            value = None if bound is None else torch.as_tensor(bound, dtype=torch.float64).detach().clone()
            self.register_buffer(name, value, persistent=False)
        if scaled and not self._finite():
            raise ValueError(f"low, high: scaled actions need finite bounds low < high, got {low} and {high}.")

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
            empty, proposal = lost & (status == Status.PRIMAL_INFEASIBLE), proposal.detach()
            usable = rescued(
                x,
                proposal,
                found,
                empty=empty,
                short=lost & ~empty,
                instead=lambda: self.backup(
                    obs, found, proposal, empty, low=self.low, high=self.high, units=self.units(x)
                ),
            )
            usable = torch.where(unknown.unsqueeze(-1), torch.nan, usable)
        return torch.where(failed.unsqueeze(-1), usable.detach(), x)


def _observation(constraint: ActionConstraint, obs: Observation | None, like: Tensor) -> Observation:
    """Observations in the dtype of the solve."""
    if obs is None:
        if constraint.depends_on_state:
            raise ValueError("obs: missing. The constraint depends on the observation.")
        return like.new_zeros(1, 0)
    return cast(obs, like)


def _own(bound: Any, n: int) -> Any:
    return bound[..., :n] if isinstance(bound, Tensor) and bound.dim() else bound
