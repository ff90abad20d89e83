"""Observations brought to zero mean and unit variance, over all that the agent has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor

__all__ = ["NormalizedExtractor", "is_vector_space", "normalize"]

#: Normalised observations are cut off here: a coordinate that hardly ever moved may do so by many deviations.
_CLIP = 10.0

#: Added to the variance: a coordinate that never moved stays 0.
_EPSILON = 1e-8


class NormalizedExtractor(FlattenExtractor):
    """x = clip( (s - mean) / sqrt(variance + 1e-8), +-10 ), flattened; s itself before the first :meth:`update`.

    Observations of any kind of number, as the environment gives them; float32 comes out. Digits that float32 cannot
    hold beside a large mean are kept where the observation space is of float64 or of integers.

    Mean and variance are those of every observation given to :meth:`update`: an agent gives what each step brings;
    where an episode has ended that is the first one of the next, not the last.
    Critic and target share one extractor, so that a state looks the same to both.

    Args:
        observation_space: of the environment.
        ignored: (start, stop): these coordinates of the flattened observation, start <= i < stop, are always 0.

    Attributes:
        mean, variance: (o,), float64: after n steps an observation moves the mean by 1 / n of its distance, which
            float32 soon rounds away where the mean is large. The variance of what is ignored is infinite.
        count: (), int64, number of observations.

    Raises:
        ValueError: ``ignored`` is no range of the observation.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, observation_space: spaces.Box, ignored: tuple[int, int] | None = None) -> None:
        super().__init__(observation_space)
        self._ignored = _range(ignored, self.features_dim)
        self.register_buffer("mean", torch.zeros(self.features_dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.features_dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.variance[self._ignored] = torch.inf

    @torch.no_grad()
    def update(self, obs: np.ndarray) -> None:
        """Take in a batch of observations (B, ...), as the environment gives them.

        The moments of both sets together (Chan, Golub and LeVeque 1979): with new ones a share w = B / (count + B) of
        all and d the distance of the means, mean += w d and variance = (1 - w) variance + w (variance' + (1 - w) d^2).
        """
        new = torch.as_tensor(obs, dtype=torch.float64, device=self.mean.device).flatten(1)
        self.count += len(new)
        share = len(new) / self.count.double()
        offsets = new - new[0]  # exact where a coordinate does not move
        distance = (new[0] - self.mean) + offsets.mean(0)
        self.mean += share * distance
        spread = offsets.var(0, correction=0) + (1.0 - share) * distance.square()
        self.variance.lerp_(spread, share)
        self.variance[self._ignored] = torch.inf

    def forward(self, observations: Tensor) -> Tensor:
        return normalize(self.flatten(observations), self.mean, self.variance)


def normalize(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Zero mean, unit variance, cut off at ten deviations, float32; NaN stays NaN.

    The mean is taken off in float64 unless x is float32: rounded first, 1.7e9 + 2 (a time stamp) would be 1.7e9.
    """
    exact = x if x.dtype == torch.float32 else x.double()
    return ((exact - mean.to(exact)).float() * (variance + _EPSILON).rsqrt().float()).clamp(-_CLIP, _CLIP)


def _range(given: tuple[int, int] | None, size: int) -> slice:
    if given is None:
        return slice(0)
    two = isinstance(given, list | tuple) and len(given) == 2 and all(type(i) is int for i in given)
    if not two or not 0 <= given[0] < given[1] <= size:
        raise ValueError(f"ignored: expected (start, stop) with 0 <= start < stop <= {size}, got {given!r}.")
    return slice(*given)


def is_vector_space(space: spaces.Space[Any]) -> bool:
    """A Box that is no image."""
    return isinstance(space, spaces.Box) and not is_image_space(space)
