"""Functions whose control flow depends on the numbers in their tensors, and how PyTorch's tracers may treat them.

How a solve proceeds depends on its numbers. A recording of one (``torch.jit.trace``, ``torch.export``, the ONNX
exporters) would repeat its steps for all others and return wrong answers, so recording is refused. ``torch.compile``
leaves these functions out of its graphs, and autocast is switched off inside.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "any_transform",
    "batched",
    "eager",
    "full_precision",
    "no_forward_mode",
    "recorded",
    "traced",
    "transformed",
    "transforms",
]

P = ParamSpec("P")
R = TypeVar("R")

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def recorded() -> bool:
    """Whether operations are being recorded, not run: code that is no tensor operation would be left out."""
    return traced() or torch.compiler.is_compiling()


def traced() -> bool:
    """Whether ``torch.jit.trace`` records, as the older ONNX exporter has it do."""
    return bool(torch._C._is_tracing())


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Under autocast, run ``function`` without it, its arguments of 16 bits cast to float32."""

    @functools.wraps(function)
    def wide(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        return _without_autocast(functools.partial(function, *map(_single, args), **_single(kwargs)))

    return wide


def _without_autocast(function: Callable[[], R]) -> R:
    for device in _DEVICES:
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return _without_autocast(function)
    return function()


def _single(value: Any) -> Any:
    """Tensors of 16 bits in float32; likewise inside of dictionaries, and of dataclasses that hold nothing else."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, Mapping):
        return {key: _single(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if all(isinstance(part, Tensor) for part in parts.values()):
            return type(value)(**_single(parts))
    return value


def transformed() -> bool:
    """Whether tensors may be those of ``torch.func``, whose values no Python code may look at."""
    return bool(torch._C._are_functorch_transforms_active())


def batched(t: Tensor) -> bool:
    """Whether a gradient that came may be many at once: those of ``torch.func``, or of ``is_grads_batched=True``."""
    return transformed() or bool(torch._C._functorch.is_legacy_batchedtensor(t))


def _forward_mode() -> bool:
    """Whether forward-mode derivatives are taken outside of ``torch.func``."""
    return torch.autograd.forward_ad._current_level >= 0


def any_transform() -> bool:
    """Whether ``torch.func`` transforms operations, or forward-mode derivatives are taken of them."""
    return transformed() or _forward_mode()


def transforms() -> tuple[bool, bool]:
    """Whether ``torch.func.vmap`` maps a dimension, and whether forward-mode derivatives are taken, as in ``jvp``,
    ``jacfwd`` and ``hessian``."""
    forward = _forward_mode()
    if not transformed():
        return False, forward
    kinds = {level.key() for level in torch._C._functorch.get_interpreter_stack() or ()}
    kind = torch._C._functorch.TransformType
    return kind.Vmap in kinds, forward or kind.Jvp in kinds


def no_forward_mode(name: str) -> RuntimeError:
    """The error of what has no forward-mode derivatives."""
    return RuntimeError(
        f"{name}: has no forward-mode derivatives (torch.func.jvp, jacfwd, hessian, torch.autograd.forward_ad). Take "
        "them in reverse mode: torch.func.grad, vjp, jacrev, or torch.autograd.grad."
    )


def eager(name: str, *, mapped: bool = False, dual: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for functions that look at numbers: they run as they stand, compiled code calls them, and nothing
    records them. Autocast stays outside.

    Args:
        name: what errors call them.
        mapped: they know ``torch.func.vmap``.
        dual: they know forward-mode derivatives, or refuse them by themselves.

    Raises:
        RuntimeError: from the function, inside of ``torch.jit.trace``, ``torch.export``, ``torch.onnx``, or of a
            transform that it does not know.
    """
    return functools.partial(_eager, name, mapped, dual)


def _eager(name: str, mapped: bool, dual: bool, function: Callable[P, R]) -> Callable[P, R]:
    function = full_precision(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if recorded():
            raise RuntimeError(
                f"{name}: cannot be recorded by torch.jit.trace, torch.export or torch.onnx. The way through a solve "
                "depends on the numbers, and one that was recorded would be repeated for all others. Export the "
                f"networks around it alone, for instance from observations to what {name} is given, and call {name} "
                "in Python. torch.compile works: it goes around."
            )
        vmap, forward = transforms()
        if forward and (not dual or (vmap and not mapped)):
            raise no_forward_mode(name)
        if vmap and not mapped:
            raise RuntimeError(
                f"{name}: cannot be mapped by torch.func.vmap, for how long it takes depends on the numbers. Every row "
                "of a batch is a problem of its own: pass all rows at once. Derivatives of their sum "
                "(torch.func.grad, torch.autograd.grad) are those of each row."
            )
        return function(*args, **kwargs)

    hidden: list[Callable[P, R]] = []  # made when somebody may be compiling: importing Dynamo takes a second

    @functools.wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return run(*args, **kwargs)
        if not hidden:
            hidden.append(torch.compiler.disable(run))  # type: ignore[no-untyped-call]
        return hidden[0](*args, **kwargs)

    # Dynamo keeps what it makes of a function with its code: each entry has its own
    entry.__code__ = entry.__code__.replace(co_name=function.__name__)  # type: ignore[attr-defined]
    entry._torchdynamo_disable = True  # type: ignore[attr-defined]  # what torch.compiler.disable does, without Dynamo
    entry._torchdynamo_disable_msg = f"{name} looks at the numbers in its tensors"  # type: ignore[attr-defined]
    return entry
