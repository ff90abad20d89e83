"""Observations brought to zero mean and unit variance, over all that the agent has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

__all__ = [
    "DiscountedReturns",
    "NormalizedCombinedExtractor",
    "NormalizedExtractor",
    "is_vector_space",
    "normalize",
    "normalizing",
    "preprocess",
    "share_moments",
    "update_moments",
]

#: Normalised observations are cut off here: a coordinate that hardly ever moved may do so by many deviations.
CLIP = 10.0

#: Added to the variance: a coordinate that never moved stays 0.
EPSILON = 1e-8


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
        count: (), float64, number of observations.

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
        # whole, but of the kind of the others: whoever draws or averages states takes every entry for a float
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.variance[self._ignored] = torch.inf

    @torch.no_grad()
    def update(self, obs: np.ndarray) -> None:
        """Take in a batch of observations (B, ...), as the environment gives them.

        The moments of both sets together (Chan, Golub and LeVeque 1979): with new ones a share w = B / (count + B) of
        all and d the distance of the means, mean += w d and variance = (1 - w) variance + w (variance' + (1 - w) d^2).
        """
        new = np.asarray(obs, dtype=np.float64).reshape(len(obs), -1)
        mean, variance = self.mean.cpu().numpy(), self.variance.cpu().numpy()
        count = float(self.count) + len(new)
        share = len(new) / count
        offsets = new - new[0]  # exact where a coordinate does not move
        distance = (new[0] - mean) + offsets.mean(0)
        mean += share * distance
        variance[self._ignored] = 0.0
        variance += share * (offsets.var(0) + (1.0 - share) * np.square(distance) - variance)
        variance[self._ignored] = np.inf
        for own, now in ((self.mean, mean), (self.variance, variance)):
            own.copy_(torch.from_numpy(now))
        self.count.fill_(count)

    def forward(self, observations: Tensor) -> Tensor:
        return normalize(self.flatten(observations), self.mean, self.variance)


class NormalizedCombinedExtractor(CombinedExtractor):
    """For Dict observations: every part that is a vector through a :class:`NormalizedExtractor` of its own, images and
    what is no Box as in SB3's CombinedExtractor, whose arguments it takes; then concatenated.

    Attributes:
        vectors: names of the parts that are normalised.
    """

    def __init__(self, observation_space: spaces.Dict, **kwargs: Any) -> None:
        super().__init__(observation_space, **kwargs)
        flat = [key for key, part in self.extractors.items() if isinstance(part, nn.Flatten)]
        self.vectors = tuple(key for key in flat if isinstance(observation_space[key], spaces.Box))
        self.extractors.update({key: NormalizedExtractor(observation_space[key]) for key in self.vectors})  # type: ignore[arg-type]


def normalizing(extractor_class: type[BaseFeaturesExtractor], space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """What normalises in place of SB3's defaults for vectors and Dict observations; other extractors as they are."""
    if extractor_class is FlattenExtractor and is_vector_space(space):
        return NormalizedExtractor
    return NormalizedCombinedExtractor if extractor_class is CombinedExtractor else extractor_class


def update_moments(extractor: nn.Module, obs: Any) -> None:
    """Take in a batch of observations, where the extractor normalises."""
    if isinstance(extractor, NormalizedExtractor):
        extractor.update(obs)
    elif isinstance(extractor, NormalizedCombinedExtractor):
        for key in extractor.vectors:
            update_moments(extractor.extractors[key], obs[key])


def share_moments(extractor: BaseFeaturesExtractor, other: BaseFeaturesExtractor) -> BaseFeaturesExtractor:
    """``other`` with the first one's means and deviations from now on, so that a state looks the same to both."""
    if isinstance(extractor, NormalizedExtractor):
        return extractor
    if isinstance(extractor, NormalizedCombinedExtractor) and isinstance(other, NormalizedCombinedExtractor):
        other.extractors.update({key: extractor.extractors[key] for key in extractor.vectors})
    return other


def preprocess(
    obs: PyTorchObs, space: spaces.Space[Any], extractor: BaseFeaturesExtractor, normalize_images: bool
) -> PyTorchObs:
    """As SB3's ``preprocess_obs``, but what the extractor normalises stays as it is, where SB3 rounds to float32."""
    if isinstance(extractor, NormalizedExtractor):
        return obs
    if not isinstance(extractor, NormalizedCombinedExtractor):
        return preprocess_obs(obs, space, normalize_images)
    assert isinstance(obs, dict)
    assert isinstance(space, spaces.Dict)
    prepared = dict(obs)
    for key, part in space.spaces.items():
        if key not in extractor.vectors:
            prepared[key] = preprocess_obs(obs[key], part, normalize_images)  # type: ignore[assignment]
    return prepared


def normalize(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Zero mean, unit variance, cut off at ten deviations, float32; NaN stays NaN.

    The mean is taken off in float64 unless x is float32: rounded first, 1.7e9 + 2 (a time stamp) would be 1.7e9.
    """
    exact = x if x.dtype == torch.float32 else x.double()
    return ((exact - mean.to(exact)).float() * (variance + EPSILON).rsqrt().float()).clamp(-CLIP, CLIP)


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


class DiscountedReturns:
    """The standard deviation of the discounted returns g <- gamma g + r of all environments so far.

    As VecNormalize has it: g runs on from the start of each episode. 1 before two of them differ.
    """

    def __init__(self) -> None:
        self._running: np.ndarray | None = None
        self._count, self._mean, self._square = 0, 0.0, 0.0  # Welford's, of all g

    @property
    def deviation(self) -> float:
        """The deviation; 1 where there is none yet."""
        variance = self._square / self._count if self._count > 1 else 0.0
        return float(np.sqrt(variance)) if variance > 0.0 else 1.0

    def update(self, rewards: np.ndarray, dones: np.ndarray, gamma: float) -> None:
        """Take in one step of every environment: (n_envs,) each."""
        if self._running is None or len(self._running) != len(rewards):
            self._running = np.zeros(len(rewards))
        self._running = gamma * self._running + rewards
        for g in self._running.tolist():
            self._count += 1
            off = g - self._mean
            self._mean += off / self._count
            self._square += off * (g - self._mean)
        self._running = np.where(dones, 0.0, self._running)
