"""What the last layers of a policy share: their set, counts of what went through them, and a penalty."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icnn_rl.checks import check_range
from icnn_rl.constraints.feasible_actions import FeasibleActions
from icnn_rl.first_order import last_derivative
from icnn_rl.solution import Status

__all__ = ["AbstractHead", "HeadOutput"]


class HeadOutput(NamedTuple):
    """What a head made of a batch.

    action (B, n), differentiable; moved (B,): Euclidean distance from the raw action, in the head's units; status (B,):
    see :class:`icnn_rl.Status`, of rows already inside the set SUCCESS.
    """

    action: Tensor
    moved: Tensor
    status: Tensor


class AbstractHead(nn.Module):
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
