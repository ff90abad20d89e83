"""What ``torch.func`` asks for."""

from __future__ import annotations

import torch


def transformed() -> bool:
    """Whether tensors may be those of torch.func, whose values no Python code may look at."""
    return bool(torch._C._are_functorch_transforms_active())
