"""How ``torch.func`` sees a solve: as one operation, whose mapped dimensions join the batch.

Inside a transform (``vmap``, ``jacrev``, ...) tensors hide their values, and a solve looks at its own all the time. An
autograd function with a rule for ``vmap`` is given plain tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from icnn_rl.qp.problem import Problem
from icnn_rl.qp.pytree import leaves, unflatten
from icnn_rl.qp.sparse import SparseRows, split

__all__ = ["as_one_operation"]

#: q, p, values of g and a, b, d, values of the coupling, and the guess: what may be mapped.
Parts = tuple[Tensor | None, ...]
#: Those of them that rows may share, by position.
_MATRICES = (0, 2, 3, 6)

T = TypeVar("T")


def as_one_operation(
    function: Callable[[Problem, Tensor | None, tuple[int, ...]], T], problem: Problem, guess: Tensor | None
) -> T:
    """``function(problem, guess, mapped)``, without a graph, for tensors of torch.func.

    Args:
        function: is called once, with plain tensors; ``mapped`` are the sizes of the dimensions that joined the batch,
            the outermost first. Its answer, a tree of frozen dataclasses, has B rows in every tensor, or one for all.
        problem: the problem.
        guess: (B, k), an active set, or None.
    """
    (g, pattern_g), (a, pattern_a) = split(problem.G), split(problem.A)
    off, pattern_off = split(problem.coupling)
    # an autograd function returns nothing but tensors: the tree that they belong in comes out here
    answers: list[T] = []

    def tensors_of_answer(mapped: tuple[int, ...], parts: Parts) -> tuple[Tensor, ...]:
        q, p, g, a, b, d, off, guess = parts
        assert q is not None
        assert p is not None
        assert b is not None
        assert d is not None
        rows_g, rows_a = _with_pattern(pattern_g, g), _with_pattern(pattern_a, a)
        coupling = _with_pattern(pattern_off, off)
        assert not isinstance(coupling, Tensor)
        plain = Problem(
            q, p, rows_g, rows_a, b, d, problem.lower, problem.upper, None, coupling=coupling, stage=problem.stage
        )
        answers.append(function(plain, guess, mapped))
        return tuple(t.clone() if t._is_view() else t for t in leaves(answers[0]))

    parts = (problem.Q, problem.p, g, a, problem.b, problem.d, off, guess)
    tensors = _Opaque.apply(tensors_of_answer, (), *parts)  # type: ignore[no-untyped-call]
    return unflatten(answers[0], iter(tensors))


class _Opaque(torch.autograd.Function):
    """``function(mapped, parts)``: tensors, none of which is differentiable."""

    @staticmethod
    def forward(
        function: Callable[[tuple[int, ...], Parts], tuple[Tensor, ...]], mapped: tuple[int, ...], *parts: Tensor | None
    ) -> tuple[Tensor, ...]:
        return function(mapped, parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.number = len(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        return (None,) * int(ctx.number)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], function: Any, mapped: tuple[int, ...], *parts: Tensor | None) -> Any:
        """The mapped dimension joins the batch."""
        size, dims = info.batch_size, in_dims[2:]
        batch = max(_rows(part, dim) for part, dim in zip(parts, dims, strict=True) if part is not None)
        merged = [
            _merge(part, dim, size, batch, share=i in _MATRICES)
            for i, (part, dim) in enumerate(zip(parts, dims, strict=True))
        ]
        flat = _Opaque.apply(function, (size, *mapped), *merged)  # type: ignore[no-untyped-call]
        shared = [t.shape[0] == 1 and size * batch > 1 for t in flat]
        out = tuple(t if alone else t.reshape(size, batch, *t.shape[1:]) for t, alone in zip(flat, shared, strict=True))
        return out, tuple(None if alone else 0 for alone in shared)


def _with_pattern(pattern: SparseRows | None, values: Tensor | None) -> Tensor | SparseRows | None:
    """Sparse rows of these values; a dense matrix as it is."""
    if pattern is None:
        return values
    assert values is not None
    return dataclasses.replace(pattern, values=values)


def _rows(part: Tensor, dim: int | None) -> int:
    return part.shape[0] if dim is None else part.movedim(dim, 0).shape[1]


def _merge(part: Tensor | None, dim: int | None, size: int, batch: int, *, share: bool) -> Tensor | None:
    """(size, 1|batch, ...) or, if not mapped, (1|batch, ...) -> (size * batch, ...), or (1, ...) if all share it."""
    if part is None or (share and dim is None and part.shape[0] == 1):
        return part
    part = part.unsqueeze(0) if dim is None else part.movedim(dim, 0)
    return part.expand(size, batch, *part.shape[2:]).reshape(size * batch, *part.shape[2:])
