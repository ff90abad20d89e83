"""Initial weights for non-negative layers that keep the signal's scale.

A zero-mean initialisation is impossible with weights >= 0, and |W| makes the mean of the signal grow with the width.
Hoedt and Klambauer choose mean and variance of log-normal weights, and a negative bias, so that pre-activations with
zero mean, unit variance and correlation 1/2 keep all three through the layer:

    n s_w^2 E[g^2] = 1 - rho
    n m_w^2 ( Var[g] + (n - 1) Cov[g, g'] ) = rho
    m_b = -n m_w E[g]

with m_w, s_w and m_b mean and deviation of a weight and the bias, n the fan-in, rho = 1/2, g the activation of a
standard normal and g' that of one correlated with it by rho. For ReLU these are
the closed forms of the paper; here the moments come from quadrature, so any activation will do.

References:
    P.-J. Hoedt, G. Klambauer, Principled Weight Initialisation for Input-Convex Neural Networks, NeurIPS 2023.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icnn_rl.checks import check_positive_int
from icnn_rl.nn.activations import ConvexActivation

__all__ = ["NonNegativeMoments", "log_normal_", "non_negative_moments", "quadratic_root"]

_RHO = 0.5
_BOWL = 0.13  # the mean of R^T R is so many times the identity: a mild bowl to begin with


@dataclass(frozen=True)
class NonNegativeMoments:
    """Mean and standard deviation of the weights, and the bias, that keep the signal's scale."""

    mean: float
    std: float
    bias: float


@functools.lru_cache(maxsize=64)
def _activation_moments(activation: ConvexActivation) -> tuple[float, float, float]:
    """E[g], Var[g] and Cov[g, g'] for standard normals correlated by rho, on a fine grid (error below 1e-5)."""
    x = torch.linspace(-8.0, 8.0, 1001, dtype=torch.float64)
    density = torch.exp(-0.5 * x * x)
    density /= density.sum()
    with torch.no_grad():
        g = activation.value(x)
        # x' given x is normal with mean rho x and variance 1 - rho^2
        conditional = activation.value(_RHO * x[:, None] + math.sqrt(1.0 - _RHO**2) * x[None, :]) @ density
    mean = float(density @ g)
    variance = float(density @ (g - mean) ** 2)
    covariance = float(density @ (g * conditional)) - mean**2
    return mean, variance, covariance


def non_negative_moments(fan_in: int, activation: ConvexActivation) -> NonNegativeMoments:
    """Solve the three equations in the head of this file for a layer of ``fan_in`` inputs."""
    mean, variance, covariance = _activation_moments(activation)
    second_moment = variance + mean**2
    std = math.sqrt((1.0 - _RHO) / (fan_in * second_moment))
    weight_mean = math.sqrt(_RHO / (fan_in * (variance + (fan_in - 1) * covariance)))
    return NonNegativeMoments(weight_mean, std, -fan_in * weight_mean * mean)


@torch.no_grad()
def log_normal_(weight: Tensor, mean: float, std: float) -> Tensor:
    """Fill ``weight`` with log-normal numbers of the given mean and standard deviation."""
    sigma2 = math.log1p((std / mean) ** 2)
    return weight.log_normal_(math.log(mean) - 0.5 * sigma2, math.sqrt(sigma2))


def quadratic_root(members: int, rank: int, n: int) -> nn.Parameter:
    """R (members, rank, n) of the term 1/2 |R y|^2. Not 0, where its gradient would be 0 too."""
    rank = check_positive_int("quadratic_rank", rank)
    return nn.Parameter(math.sqrt(_BOWL / rank) * torch.randn(members, rank, n))
