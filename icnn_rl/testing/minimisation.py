"""One table of problems with known answers, one of solvers. Tests walk both: a new entry gets the whole suite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from icnn_rl.nn import ICNN, PICNN, EnsembleEnergy
from icnn_rl.sets import Box, Unconstrained
from icnn_rl.solvers import BundleEntropy, ProjectedGradient, ProjectedNewton, Solver
from icnn_rl.testing import minimisation_references as references

INF = float("inf")


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float32, so that casting them to float64 and back loses nothing."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Instance:
    """A problem in one dtype: f, a starting point and the set."""

    energy: Callable[[Tensor], Tensor]
    y0: Tensor
    domain: Box | Unconstrained

    def bounds(self) -> tuple[Tensor, Tensor]:
        lower, upper = self.domain.bounds(self.y0)
        return lower.expand_as(self.y0), upper.expand_as(self.y0)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        build: dtype -> Instance.
        answer: (instance in float64, row) -> (f*, y*): a reference for f itself; None: L-BFGS-B.
        lift: (instance in float64, row) -> linear programme, for piecewise-linear f.
        smooth: twice differentiable.
        finite: bounded on all sides.
        step: a step length for the methods that need one, below 1 / L; None: too badly conditioned for them.
        unique: the minimiser is unique and well conditioned, so that the value may be compared too.
    """

    name: str
    build: Callable[[torch.dtype], Instance]
    answer: Callable[[Instance, int], tuple[float, references.Array]] | None = None
    lift: Callable[[Instance, int], references.Lift] | None = None
    smooth: bool = True
    finite: bool = True
    step: float | None = 0.1
    unique: bool = True

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Answer:
    fun: Tensor  # (B,)
    value: Tensor  # (B, n)


@functools.cache
def answer(case: Case, tau: float = 0.0) -> Answer:
    """The reference for f (tau = 0) or for f - tau H, in float64."""
    problem = case.build(torch.float64)
    lower, upper = (bound.numpy() for bound in problem.bounds())
    rows = []
    for row in range(len(problem.y0)):
        low, high = lower[row], upper[row]
        if case.lift is not None:
            lift = case.lift(problem, row)
            rows.append(lift.minimize_with_entropy(low, high, tau) if tau > 0 else lift.minimize(low, high))
            continue
        function = references.numpy_function(problem.energy, row, problem.y0)
        if tau > 0:
            rows.append(references.smooth_with_entropy(function, low, high, tau))
        elif case.answer is not None:
            rows.append(case.answer(problem, row))
        else:
            rows.append(references.smooth_on_box(function, low, high, problem.y0[row].numpy()))
    fun, value = zip(*rows, strict=True)
    return Answer(torch.tensor(fun, dtype=torch.float64), torch.as_tensor(np.stack(value)))


# energies that are not networks


@dataclass(frozen=True)
class Quadratic:
    """1/2 (y - c)^T H (y - c), a plain callable. H (n, n) or (B, n, n), c (B, n)."""

    h: Tensor
    c: Tensor
    smooth: bool = field(default=True)

    def __call__(self, y: Tensor) -> Tensor:
        d = y - self.c
        return 0.5 * (torch.matmul(self.h, d.unsqueeze(-1)).squeeze(-1) * d).sum(-1)


@dataclass(frozen=True)
class Exponential:
    """sum_j exp(a_j y_j) - s_j y_j, minimised at log(s / a) / a."""

    a: Tensor
    s: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return (torch.exp(self.a * y) - self.s * y).sum(-1)


@dataclass(frozen=True)
class MaxAffine:
    """max_i A_i . y + b_i: A (B, K, n), b (B, K)."""

    slopes: Tensor
    offsets: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return (torch.matmul(self.slopes, y.unsqueeze(-1)).squeeze(-1) + self.offsets).amax(-1)


@dataclass(frozen=True)
class Plain:
    """An energy without its closed forms, as a user's own function would come."""

    energy: Callable[[Tensor], Tensor]

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y)


def _diagonal(dtype: torch.dtype) -> Instance:
    h = torch.diag(torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])).to(dtype)
    return Instance(Quadratic(h, (1.5 * draw(0, 6, 5)).to(dtype)), draw(1, 6, 5).to(dtype).clamp(-1, 1), Box(-1.0, 1.0))


def _per_row_bounds(dtype: torch.dtype) -> Instance:
    """Bounds of every row its own, some coordinates fixed (lower = upper)."""
    lower = draw(2, 5, 4)
    upper = lower + draw(3, 5, 4).abs()
    upper[1, 2], upper[3, 0], upper[3, 1] = lower[1, 2], lower[3, 0], lower[3, 1]
    h = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return Instance(Quadratic(h.to(dtype), draw(4, 5, 4).to(dtype)), draw(5, 5, 4).to(dtype), _box(lower, upper, dtype))


def _half_infinite(dtype: torch.dtype) -> Instance:
    lower, upper = torch.tensor([-INF, 0.0, -1.0, -INF]), torch.tensor([0.5, INF, 1.0, INF])
    h = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return Instance(Quadratic(h.to(dtype), draw(6, 5, 4).to(dtype)), draw(7, 5, 4).to(dtype), _box(lower, upper, dtype))


def _correlated(condition: float) -> Callable[[torch.dtype], Instance]:
    def build(dtype: torch.dtype) -> Instance:
        basis, _ = torch.linalg.qr(draw(8, 5, 4, 4).double())
        spectrum = torch.logspace(0, float(np.log10(condition)), 4, dtype=torch.float64)
        h = (basis * (spectrum / condition)) @ basis.mT
        lower, upper = torch.tensor([-1.0, -0.5, -2.0, -1.0]), torch.tensor([1.0, 1.5, 0.5, 1.0])
        return Instance(
            Quadratic(h.to(dtype), (2 * draw(9, 5, 4)).to(dtype)), draw(10, 5, 4).to(dtype), _box(lower, upper, dtype)
        )

    return build


def _box(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Box:
    return Box(lower.to(dtype), upper.to(dtype))


def _separable_answer(problem: Instance, row: int) -> tuple[float, references.Array]:
    """A diagonal quadratic: the centre, clipped."""
    assert isinstance(problem.energy, Quadratic)
    value = torch.clamp(problem.energy.c, *problem.bounds())
    return float(problem.energy(value)[row]), value[row].numpy()


def _enumerated_answer(problem: Instance, row: int) -> tuple[float, references.Array]:
    assert isinstance(problem.energy, Quadratic)
    h, c = problem.energy.h[row].numpy(), problem.energy.c[row].numpy()
    lower, upper = (bound[row].numpy() for bound in problem.bounds())
    d = references.box_qp_by_enumeration(h, np.zeros(4), lower - c, upper - c)
    return float(0.5 * d @ h @ d), c + d


def _unconstrained(dtype: torch.dtype) -> Instance:
    root = draw(11, 5, 3, 3).double()
    h = root @ root.mT + 0.5 * torch.eye(3, dtype=torch.float64)
    return Instance(Quadratic(h.to(dtype), draw(12, 5, 3).to(dtype)), draw(13, 5, 3).to(dtype), Unconstrained())


def _unconstrained_answer(problem: Instance, row: int) -> tuple[float, references.Array]:
    assert isinstance(problem.energy, Quadratic)
    return 0.0, problem.energy.c[row].numpy()


def _exponential(dtype: torch.dtype) -> Instance:
    a, s = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([4.0, 1.0, 0.1])
    return Instance(Exponential(a.to(dtype), s.to(dtype)), draw(14, 4, 3).to(dtype).clamp(-1, 1), Box(-1.5, 1.0))


def _exponential_answer(problem: Instance, row: int) -> tuple[float, references.Array]:
    energy = problem.energy
    assert isinstance(energy, Exponential)
    value = torch.clamp((torch.log(energy.s / energy.a) / energy.a).expand_as(problem.y0), *problem.bounds())
    return float(energy(value)[row]), value[row].numpy()


def _max_affine(dtype: torch.dtype) -> Instance:
    slopes, offsets = draw(15, 5, 8, 3).to(dtype), draw(16, 5, 8).to(dtype)
    return Instance(MaxAffine(slopes, offsets), draw(17, 5, 3).to(dtype), Box(-1.0, 2.0))


def _max_affine_lift(problem: Instance, row: int) -> references.Lift:
    assert isinstance(problem.energy, MaxAffine)
    return references.lift_max_affine(problem.energy.slopes[row].numpy(), problem.energy.offsets[row].numpy())


def picnn(dtype: torch.dtype, activation: str, n: int = 3, seed: int = 0, **settings: object) -> PICNN:
    """A small network with seeded weights, the same in every dtype."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PICNN(4, n, context=(16,), hidden=(8, 8), activation=activation, **settings)  # type: ignore[arg-type]
        for head in (net.heads,):
            torch.nn.init.normal_(head.weight, std=0.3)
    return net.to(dtype)


def _softplus_picnn(dtype: torch.dtype) -> Instance:
    return Instance(picnn(dtype, "softplus").bind(draw(18, 6, 4).to(dtype)), draw(19, 6, 3).to(dtype), Box(-2.0, 2.0))


def _relu_picnn(dtype: torch.dtype) -> Instance:
    net = picnn(dtype, "relu", seed=1, quadratic=False, strong_convexity=0.0)
    return Instance(net.bind(draw(20, 4, 4).to(dtype)), draw(21, 4, 3).to(dtype), Box(-2.0, 2.0))


def _relu_lift(problem: Instance, row: int) -> references.Lift:
    assert isinstance(problem.energy, EnsembleEnergy)
    return references.lift_relu_network(problem.energy, row)


def _ensemble_picnn(dtype: torch.dtype) -> Instance:
    net = picnn(dtype, "squareplus", seed=2, ensemble=3)
    energy = net.bind(draw(22, 5, 4).to(dtype), reduction="softmax", temperature=0.2)
    return Instance(energy, draw(23, 5, 3).to(dtype), Box(-1.0, 1.0))


def _unconstrained_icnn(dtype: torch.dtype) -> Instance:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = ICNN(3, hidden=(8, 8), strong_convexity=0.5).to(dtype)
    return Instance(net.bind(), draw(24, 4, 3).to(dtype), Unconstrained())


def _all_fixed(dtype: torch.dtype) -> Instance:
    """The box is one point: nothing to do, and nothing to divide by."""
    point = draw(25, 3, 4).to(dtype)
    return Instance(
        Quadratic(torch.eye(4, dtype=dtype), draw(26, 3, 4).to(dtype)), draw(27, 3, 4).to(dtype), Box(point, point)
    )


CASES = [
    Case("diagonal", _diagonal, _separable_answer),
    Case("per_row_bounds", _per_row_bounds, _separable_answer),
    Case("half_infinite", _half_infinite, _separable_answer, finite=False),
    Case("correlated_1e2", _correlated(1e2), _enumerated_answer, step=0.5),
    Case("correlated_1e5", _correlated(1e5), _enumerated_answer, step=None, unique=False),
    Case("unconstrained", _unconstrained, _unconstrained_answer, finite=False, step=0.05),
    Case("exponential", _exponential, _exponential_answer, step=0.03),
    Case("softplus_picnn", _softplus_picnn, step=0.05),
    Case("ensemble_softmax", _ensemble_picnn, step=0.05),
    Case("unconstrained_icnn", _unconstrained_icnn, finite=False, step=0.05),
    Case("all_fixed", _all_fixed, _separable_answer),
    Case("max_affine", _max_affine, lift=_max_affine_lift, smooth=False, step=None, unique=False),
    Case("relu_picnn", _relu_picnn, lift=_relu_lift, smooth=False, step=None, unique=False),
]


@dataclass(frozen=True)
class Method:
    """A solver of the table.

    Attributes:
        build: (case, tol, max_steps) -> solver; max_steps None: enough.
        tol: what it reaches in float64 on the whole table.
        tol_single: what it reaches in float32.
        tau: the entropy of what it minimises, f - tau H.
    """

    name: str
    build: Callable[[Case, float, int | None], Solver]
    tol: float
    tol_single: float
    tau: float = 0.0

    def __repr__(self) -> str:
        return self.name

    def cannot_solve(self, case: Case) -> str | None:
        """Why this pair makes no sense, or None."""
        if self.tau > 0:
            return None if case.finite else "the entropy lives on a finite box"
        if not case.smooth:
            return "gradients alone settle slowly on a kink"
        if case.step is None and self.name in ("momentum", "adam"):
            return "too badly conditioned for a fixed step length"
        return None

    def cannot_run(self, case: Case) -> str | None:
        """Why not even a certificate may be expected, or None."""
        if self.tau > 0 and not case.finite:
            return "the entropy lives on a finite box"
        return "Newton needs a Hessian" if self.name == "newton" and not case.smooth else None


def _newton(case: Case, tol: float, max_steps: int | None) -> Solver:
    return ProjectedNewton(tol=tol, max_steps=max_steps or 60)


def _accelerated(case: Case, tol: float, max_steps: int | None) -> Solver:
    return ProjectedGradient(tol=tol, max_steps=max_steps or 6000)


def _momentum(case: Case, tol: float, max_steps: int | None) -> Solver:
    return ProjectedGradient("momentum", lr=case.step or 0.01, momentum=0.7, tol=tol, max_steps=max_steps or 4000)


def _adam(case: Case, tol: float, max_steps: int | None) -> Solver:
    return ProjectedGradient("adam", lr=0.02, tol=tol, max_steps=max_steps or 2000)


def _bundle(tau: float) -> Callable[[Case, float, int | None], Solver]:
    def build(case: Case, tol: float, max_steps: int | None) -> Solver:
        return BundleEntropy(entropy=tau, tol=tol, max_steps=max_steps or 150, max_cuts=60)

    return build


METHODS = [
    Method("newton", _newton, 1e-12, 1e-6),
    Method("accelerated", _accelerated, 1e-9, 1e-5),
    Method("momentum", _momentum, 1e-8, 1e-5),
    Method("adam", _adam, 1e-4, 1e-3),
    Method("bundle_tau_1", _bundle(1.0), 1e-7, 1e-5, tau=1.0),
    Method("bundle_tau_0.2", _bundle(0.2), 1e-7, 1e-5, tau=0.2),
]
