"""The usual critics on a CPU: the products of an update are torch's, the rest is compiled, and no graph is kept.

Autograd takes an update apart into some two hundred operations, each of which costs more to ask for than to do. Here it
is eleven products, a solve and seven passes between them (:mod:`.kernel`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn_rl.agents.icnn_q.batch import Batch, Draws, Settings
from icnn_rl.agents.icnn_q.losses import LOSS_KEYS, TARGET_KEYS
from icnn_rl.nn import PICNN
from icnn_rl.numba_support import available
from icnn_rl.solution import Solution
from icnn_rl.solvers import ProjectedNewton, Solver
from icnn_rl.solvers.newton import dispatch
from icnn_rl.solvers.newton.polytopes import Polytopes, newton_on_polytopes, outside

__all__ = ["CompiledCritics", "is_compiled", "kernel"]


Array = np.ndarray[Any, np.dtype[Any]]

_NO_MOMENTS = np.zeros(0)


@functools.cache
def kernel() -> ModuleType:
    """Importing numba takes a second: not before it is needed."""
    return importlib.import_module("icnn_rl.agents.icnn_q.kernel")


class Read(NamedTuple):
    """What the heads read from a batch of states; overwritten by the next one of the same size."""

    us: list[Tensor]  # what every layer of the context gives, (S E, B, width)
    heads: Tensor  # (S E, B, H)
    tail: Tensor  # softplus of the heads from the gates on z on, (S E, B, ..)
    weights: tuple[Array, Array, float, float]  # W^(y) and v as they were then, and the two numbers of the form


def is_compiled(solver: Solver) -> TypeGuard[ProjectedNewton]:
    """Whether this is the method that is compiled, and may be."""
    return isinstance(solver, ProjectedNewton) and solver.compiled


class CompiledCritics:
    """S learners' critics of E members each: PICNNs with one hidden layer of squareplus units.

    Args:
        net: the S E members, of the form :meth:`fits` asks for.
        learners: S.

    Tensors that it returns are overwritten by the next call.
    """

    def __init__(self, net: PICNN, learners: int) -> None:
        self.net, self.learners = net, learners
        self.total = net.ensemble or 1
        self.members = self.total // learners
        (self.h,), self.n = net.hidden, net.y_features
        self._buffers: dict[tuple[str, int], Tensor] = {}
        like = net.heads.weight.detach()
        self._lower, self._upper = (np.full((1, self.n), b, like.numpy().dtype) for b in (-1.0, 1.0))
        self._all = np.tile(np.arange(self.members), (learners, 1))

    @staticmethod
    def fits(net: nn.Module) -> bool:
        """Whether the network is one that is known here, on the CPU, and numba is installed."""
        return (
            isinstance(net, PICNN)
            and len(net.hidden) == 1
            and len(net.context_widths) > 0
            and net.norms is not None
            and net.rectified
            and net.activation.square_width is not None
            and net.gate == "softplus"
            and net.quadratic
            and net.root is None
            and net.nonneg[0].positivity == "clamp"
            and net.heads.weight.device.type == "cpu"
            and net.heads.weight.dtype in (torch.float32, torch.float64)
            and available()
        )

    # the loss

    @property
    def gradients(self) -> list[Tensor]:
        """Where :meth:`gradient` puts them, in the order of ``net.parameters()``."""
        return list(self._into.values())

    @functools.cached_property
    def _into(self) -> dict[str, Tensor]:
        """Where the gradients go."""
        return {name: torch.zeros_like(part) for name, part in self.net.named_parameters()}

    @torch.no_grad()
    def gradient(self, x: Tensor, y: Tensor, target: Tensor, usable: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """What is told of the Bellman losses (S, 4), and their gradients in the order of ``net.parameters()``.

        Args:
            x: (S E, B, x_features). y: (S, B, n). target: (S, B). usable: (S, B), bool.
        """
        read = self._read(x)
        dheads, told = torch.empty_like(read.heads), x.new_empty(self.learners, len(LOSS_KEYS))
        ddirections = x.new_empty(self.total, self.n, self.h)
        raw, into_v = self.net.nonneg[0].weight, self._into["nonneg.0.weight"]
        kernel().loss(
            read.heads.numpy(),
            read.tail.numpy(),
            torch.sigmoid(read.heads[..., self.n + self.h :]).numpy(),
            *read.weights,
            y.contiguous().numpy(),
            target.contiguous().numpy(),
            usable.contiguous().numpy(),
            told.numpy(),
            dheads.numpy(),
            ddirections.numpy(),
            _rows(into_v),
        )
        into_v.masked_fill_((raw < 0) & (into_v > 0), 0.0)  # see NonNegativeLinear: what is below 0 may only rise
        self._into["passthrough.0.weight"].copy_(ddirections.mT)
        self._pull(dheads, x, read.us)
        return told, list(self._into.values())

    def _pull(self, dheads: Tensor, x: Tensor, us: list[Tensor]) -> None:
        """The gradient through heads and context."""
        net, into, batch = self.net, self._into, x.shape[-2]
        assert net.norms is not None
        torch.bmm(dheads.mT, us[-1], out=into["heads.weight"])
        torch.sum(dheads, 1, keepdim=True, out=into["heads.bias"])
        pulled, through = dheads, net.heads.weight
        for i in range(len(us) - 1, -1, -1):
            du = self._buffer(f"du {i}", batch, *us[i].shape)
            torch.bmm(pulled, through, out=du)
            xhat, per_std = self._buffers[f"xhat {i}", batch], self._buffers[f"std {i}", batch]
            into_bias, into_shift = into[f"context.{i}.bias"], into[f"norms.{i}.bias"]
            kernel().normalise_backward(
                xhat.numpy(), _rows(net.norms[i].bias), per_std.numpy(), du.numpy(), _rows(into_bias), _rows(into_shift)
            )
            torch.bmm(du.mT, us[i - 1] if i else x, out=into[f"context.{i}.weight"])
            pulled, through = du, net.context[i].weight

    # the greedy action

    @torch.no_grad()
    def target(
        self,
        x: Tensor,
        batch: Batch,
        own: Settings,
        draws: Draws,
        solver: ProjectedNewton,
        atol: Tensor,
        allowed: Polytopes | None = None,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """See :meth:`icnn_rl.agents.icnn_q.critics.Critics.target`; x (S E, B, x_features) are the features of the next
        states, and ``allowed`` the actions of a lone learner that may be taken there. None where a set may be empty."""
        read = self._read(x)
        found = self._maximise(read, solver, atol, allowed)
        if found is None:
            return None
        action = found.value
        if draws.noise is not None:
            action = (action + draws.noise).clamp_(-1.0, 1.0)
            if allowed is not None:
                moved = allowed.moved(action[0].double().numpy())
                if moved is None:
                    return None
                action = torch.from_numpy(moved).to(action.dtype).unsqueeze(0)
        energies = x.new_empty(action.shape[:2])
        members = self._all if draws.members is None else draws.members.numpy()
        kernel().greatest(
            read.heads.numpy(), read.tail.numpy(), *read.weights, action.numpy(), members, energies.numpy()
        )
        target, usable = torch.empty_like(energies), torch.empty(energies.shape, dtype=torch.bool)
        told = x.new_empty(self.learners, len(TARGET_KEYS))
        discounts = own.gamma.unsqueeze(-1) if batch.discounts is None else batch.discounts
        parts = (own.within(energies.neg_()), found.value, found.gap, found.num_steps, found.status)
        rest = (batch.rewards, batch.ended, discounts, own.reward_factor, target, usable, told)
        kernel().bellman(*(part.numpy() for part in (*parts, *rest)))
        return target, usable, told

    @torch.no_grad()
    def act(self, x: Tensor, solver: ProjectedNewton) -> Solution:
        """argmax_a of mean_e Q_e of one learner: x (B, o) -> (B, n)."""
        found = self._maximise(self._read(x.expand(self.members, -1, -1)), solver, None)
        assert found is not None
        return _first(found)

    def act_on(
        self, obs: Array, mean: Tensor | None, variance: Tensor | None, solver: ProjectedNewton, learner: int = 0
    ) -> tuple[Array, int]:
        """A learner's greedy action (n,) for one observation (o,), normalised by ``mean`` and ``variance`` (o,) where
        there are any; and the :class:`icnn_rl.Status` of its search."""
        net, own = self.net, slice(learner * self.members, (learner + 1) * self.members)
        assert net.norms is not None
        assert net.heads.bias is not None
        assert net.activation.square_width is not None
        layers = list(zip(net.context, net.norms, strict=True))
        known = mean is not None and variance is not None
        moments = (mean.numpy(), variance.numpy()) if known else (_NO_MOMENTS, _NO_MOMENTS)  # type: ignore[union-attr]

        def part(whole: Tensor) -> Array:
            array: Array = whole.detach().numpy()[own]
            return array

        action, status = kernel().act(
            obs,
            known,
            *moments,
            tuple(part(layer.weight) for layer, _ in layers),
            tuple(part(layer.bias) for layer, _ in layers if layer.bias is not None),
            tuple(part(norm.bias) for _, norm in layers),
            part(net.heads.weight),
            part(net.heads.bias),
            part(net.passthrough[0].weight),
            part(net.nonneg[0].weight),
            net.strong_convexity,
            net.activation.square_width,
            float(solver.tol),
            int(solver.max_steps),
            int(solver.model_solves),
        )
        return action, int(status)

    @torch.no_grad()
    def act_within(self, x: Tensor, allowed: Polytopes, solver: ProjectedNewton) -> Solution | None:
        """:meth:`act` over polytopes; None where one may be empty."""
        found = self._maximise(self._read(x.expand(self.members, -1, -1)), solver, None, allowed)
        return None if found is None else _first(found)

    def _maximise(
        self, read: Read, solver: ProjectedNewton, atol: Tensor | None, allowed: Polytopes | None = None
    ) -> Solution | None:
        """Learner by learner, (S, B, ..). None where a set that is ``allowed`` may be empty."""
        batch, n, h, e = read.heads.shape[1], self.n, self.h, self.members
        solution, found = dispatch.to_be_found(read.heads, self.learners, batch, n)
        heads, tail = read.heads.numpy(), read.tail.numpy()
        directions, v, curvature, square_width = read.weights
        bound = [
            self._buffer(f"bound {i}", batch, *shape).numpy()
            for i, shape in enumerate(((e, batch, n), (e, batch, h), (e, batch, h), (batch, n), (batch,), (batch, n)))
        ]
        start = self._buffer("start", batch, batch, n).zero_().numpy()
        box = self._lower, self._upper
        if allowed is not None:
            box = allowed.lower.astype(heads.dtype), allowed.upper.astype(heads.dtype)
        for s in range(self.learners):
            own = slice(s * e, (s + 1) * e)
            enough = 0.0 if atol is None else float(atol[s])
            kernel().bind(heads[own], tail[own], v[own], curvature, *bound)
            energies = (directions[own], *bound, square_width)
            dispatch.newton_compiled(energies, (*box, start), solver, enough, [part[s] for part in found])
            if allowed is not None and not _into(allowed, energies, box, solver, enough, [part[s] for part in found]):
                return None
        return solution

    # the heads

    def _weights(self) -> tuple[Array, Array, float, float]:
        """W^(y) transposed (S E, n, h), v >= 0 (S E, h), the floor under the curvature, and the square of the width."""
        net = self.net
        assert net.activation.square_width is not None
        passthrough, raw = net.passthrough[0].weight, net.nonneg[0].weight
        own = kernel().weights(passthrough.detach().numpy(), raw.detach().numpy())
        return *own, net.strong_convexity, net.activation.square_width

    def features(self, obs: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalised observations (S, B, o), by moments (S, o), to each of the members: (S E, B, o)."""
        learners, batch, width = obs.shape
        if obs.dtype != torch.float32:
            obs = obs.double()
        x = self._buffer("x", batch, learners, batch, width)
        kernel().features(obs.contiguous().numpy(), mean.numpy(), variance.numpy(), x.numpy())
        return x.unsqueeze(1).expand(-1, self.members, -1, -1).flatten(0, 1)

    def _read(self, x: Tensor) -> Read:
        net, batch, us = self.net, x.shape[-2], []
        assert net.norms is not None
        assert net.heads.bias is not None
        u = x
        for i, (layer, norm) in enumerate(zip(net.context, net.norms, strict=True)):
            assert layer.bias is not None
            shape = (self.total, batch, layer.out_features)
            xhat, per_std = self._buffer(f"xhat {i}", batch, *shape), self._buffer(f"std {i}", batch, *shape[:2])
            torch.baddbmm(layer.bias, u, layer.weight.mT, out=xhat)
            u = self._buffer(f"u {i}", batch, *shape)
            kernel().normalise(xhat.numpy(), _rows(norm.bias), per_std.numpy(), u.numpy())
            us.append(u)
        heads = self._buffer("heads", batch, self.total, batch, net.heads.out_features)
        torch.baddbmm(net.heads.bias, u, net.heads.weight.mT, out=heads)
        return Read(us, heads, F.softplus(heads[..., self.n + self.h :]), self._weights())

    def _buffer(self, name: str, batch: int, *shape: int) -> Tensor:
        if (name, batch) not in self._buffers:
            self._buffers[name, batch] = self.net.heads.weight.new_empty(shape)
        return self._buffers[name, batch]


def _into(
    allowed: Polytopes,
    energies: Sequence[Any],
    box: Sequence[Array],
    solver: ProjectedNewton,
    atol: float,
    found: Sequence[Array],
) -> bool:
    """Solve the rows once more whose minimiser over the bounds is outside, see
    :func:`icnn_rl.solvers.lazy_rows.solve_with_lazy_rows`. False where a set may be empty."""
    if allowed.h.shape[1] == 0:
        return True
    rows = np.flatnonzero(outside(found[0], allowed.G, allowed.h))
    if not len(rows):
        return True
    again = newton_on_polytopes(energies, box, allowed.G, allowed.h, rows, found[0][rows], solver, atol)
    if again is None:
        return False
    steps = found[4][rows]
    for part, fresh in zip(found, again, strict=True):
        part[rows] = fresh
    found[4][rows] += steps
    return True


def _first(found: Solution) -> Solution:
    """Of the first learner."""
    assert found.residual is not None
    parts = (found.value, found.fun, found.gap, found.status, found.num_steps, found.residual)
    value, fun, gap, status, num_steps, residual = (part[0] for part in parts)
    return Solution(value, fun, gap, status, num_steps, residual)


def _rows(bias: Tensor) -> Any:
    """(S E, 1, width) -> (S E, width), for compiled code."""
    return bias.detach().squeeze(1).numpy()
