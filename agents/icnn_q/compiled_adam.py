"""Adam and the targets' step in one compiled pass over the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icnn_rl.agents.icnn_q.compiled import kernel

__all__ = ["CompiledAdam"]


class CompiledAdam:
    """torch's Adam and the targets' step in one pass over one learner's weights.

    The optimiser keeps its state, for whoever saves it or goes on with it.

    Args:
        optimizer: fused Adam, see :meth:`fits`.
        gradients, targets: of the optimiser's parameters, in their order.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> None:
        self.optimizer = optimizer
        (self.group,) = optimizer.param_groups
        self._gradients = tuple(part.numpy() for part in gradients)
        self._targets = tuple(part.detach().numpy() for part in targets)
        self._known: tuple[Any, ...] = ()
        self._steps: list[Tensor] = []

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer) -> bool:
        """Whether this is Adam as it usually is, on the CPU."""
        plain = {"weight_decay": 0, "amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}
        return (
            type(optimizer) is torch.optim.Adam
            and len(optimizer.param_groups) == 1
            and all(optimizer.param_groups[0].get(name, value) == value for name, value in plain.items())
            and all(p.device.type == "cpu" and p.is_contiguous() for p in optimizer.param_groups[0]["params"])
            and not optimizer._optimizer_step_pre_hooks
            and not optimizer._optimizer_step_post_hooks
        )

    def length(self) -> float:
        """Of the gradient."""
        return float(kernel().length(self._gradients))

    def step(self, tau: float) -> None:
        """One step, and theta' += tau (theta - theta')."""
        parameters = self.group["params"]
        state = self.optimizer.state
        if any(not state[p] for p in parameters):
            for p, gradient in zip(parameters, self._gradients, strict=True):
                p.grad = torch.from_numpy(gradient)
            self.optimizer.step()  # it makes its state
            for slow, p in zip(self._targets, parameters, strict=True):
                slow += tau * (p.detach().numpy() - slow)
            return
        first = state[parameters[0]]
        if not self._known or self._known[0] is not first["exp_avg"] or self._known[1] != parameters[0].data_ptr():
            names = ("exp_avg", "exp_avg_sq")
            arrays = [tuple(p.detach().numpy() for p in parameters)]
            arrays += [tuple(state[p][name].numpy() for p in parameters) for name in names]
            self._known = first["exp_avg"], parameters[0].data_ptr(), *arrays
            self._steps = [state[p]["step"] for p in parameters]
        torch._foreach_add_(self._steps, 1.0)
        weights, means, squares = self._known[2:]
        beta1, beta2 = self.group["betas"]
        kernel().adam(
            weights,
            self._gradients,
            means,
            squares,
            self._targets,
            float(self.group["lr"]),
            float(beta1),
            float(beta2),
            float(self.group["eps"]),
            float(self._steps[0]),
            tau,
        )
