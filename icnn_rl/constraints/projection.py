"""The nearest action of a constraint's set, as the last layer of a policy."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from icnn_rl.checks import check_float_tensor
from icnn_rl.constraints.base import ActionConstraint
from icnn_rl.constraints.fallback import Fallback
from icnn_rl.constraints.feasible_actions import FeasibleActions
from icnn_rl.constraints.head import AbstractHead, HeadOutput
from icnn_rl.constraints.observations import Observation
from icnn_rl.eager import eager
from icnn_rl.sets import ConvexSet

__all__ = ["ActionProjection"]


class ActionProjection(AbstractHead):
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
        >>> layer = ActionProjection(linear([[1.0, 1.0]], [1.0]))
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
