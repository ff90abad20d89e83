"""Numbers of a constraint: constants, checked when it is made, or functions of the observation, checked when called."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_numbers", "check_vector", "evaluate", "evaluate_vector", "frozen"]


def evaluate(name: str, value: Any, obs: Tensor, *core: str) -> Tensor:
    """Constants, or a function's answer, in the dtype and on the device of the observations. ``core``: the dimensions
    of the answer for one state, which say, where they are wrong, what was expected."""
    if not callable(value):
        return _constant(value, obs.dtype, obs.device)
    answer = value(obs)
    called = f"{name}: the function {getattr(value, '__name__', type(value).__name__)} of the observation"
    if not isinstance(answer, Tensor):
        raise ValueError(f"{called} returned {type(answer).__name__}, not a tensor.")
    batch, k = obs.shape[:-1], len(core)
    # of stacked frames and images there is no telling which dimensions are the batch
    if obs.dim() <= 2 and (answer.dim() != len(batch) + k or answer.shape[: len(batch)] != batch):
        wanted = ", ".join((*map(str, batch), *core)) + ("," if len(batch) + k == 1 else "")
        hint = "one for every state: return value.expand(len(obs), ...)"
        if answer.dim() == len(batch) + k - 1 and answer.shape[: len(batch)] == batch:
            hint = f"a dimension is missing: return value.unsqueeze({-2 if k == 2 else -1})"
        raise ValueError(
            f"{called} returned shape {tuple(answer.shape)} for {len(obs) if batch else 'one'} "
            f"state{'s' if len(batch) and batch[0] != 1 else ''}, expected ({wanted}); {hint}."
        )
    return answer.to(obs)


@functools.lru_cache(maxsize=256)
def _constant(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in nested tuples as a tensor: made once, for it is asked for at every step of an environment."""
    with torch.inference_mode(False):  # it outlives the mode of the first call
        return torch.tensor(value, dtype=dtype, device=device)


def evaluate_vector(name: str, value: Any, obs: Tensor, n: int) -> Tensor:
    """A number, or n of them for each state, as n numbers: (..., n)."""
    v = evaluate(name, value, obs, str(n))
    if v.dim() == 0:
        return v.expand(n)
    if v.shape[-1] != n:
        raise ValueError(f"{name}: expected a number or {n} numbers, one for each action, got {v.shape[-1]}.")
    return v


def check_numbers(name: str, value: Any) -> Tensor:
    """Constants in float64, without NaN."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers or a function of the observation, got {value!r}.") from error
    if bool(tensor.isnan().any()):
        raise ValueError(f"{name}: contains NaN.")
    return tensor


def check_vector(name: str, value: Any) -> Tensor:
    """A number or a list of them."""
    tensor = check_numbers(name, value)
    if tensor.dim() > 1 or tensor.numel() == 0:
        raise ValueError(f"{name}: expected a number or a list of numbers, got shape {tuple(tensor.shape)}.")
    return tensor


def frozen(value: Any) -> Any:
    """Numbers as nested tuples: hashable, comparable, picklable; functions as they are."""
    if callable(value):
        return value
    numbers = torch.as_tensor(value, dtype=torch.float64).tolist()
    return _tuples(numbers)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
