"""The packages that differentiate, one adapter each, and the list of all. Those that are not installed are left out."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from dataclasses import fields
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from benchmarks.qp.adapter import AbstractPeer, Answer, available, imported
from benchmarks.qp.cases import CASES, Arguments, as_dense, joined, perturbed
from benchmarks.qp.loops import Daqp, Piqp, PiqpMultistage, PiqpSparse
from icnn_rl.qp import solve_qp, total_variation


class _Torch(AbstractPeer):
    """Packages whose layer is a function of torch tensors: fills in all but ``solve``."""

    leaves: dict[str, Tensor]

    @abstractmethod
    def solve(self) -> tuple[Tensor, Tensor | None]:
        """z, and the rows that failed if the package tells."""

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.solve()[0]

    def both(self) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        value, failed = self.solve()
        loss = (self.weights * value.square().sum(-1)).sum()
        return value, failed, torch.autograd.grad(loss, list(self.leaves.values()))

    def answer(self) -> Answer:
        value, failed, grads = self.both()
        failed = torch.zeros(len(value), dtype=torch.bool) if failed is None else failed
        return Answer(value.detach(), failed.cpu(), dict(zip(self.leaves, grads, strict=True)))


class Ours(_Torch):
    name = "solve_qp"

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        self.leaves = {name: arguments[name].clone().requires_grad_() for name in wanted}
        self.arguments = {**arguments, **self.leaves}
        self.start: Any = None

    def solve(self) -> tuple[Tensor, Tensor]:
        solution = solve_qp(**self.arguments, warm_start=self.start, throw=False)
        return solution.value, ~solution.success


class OursWarm(Ours):
    """Started from the solution of the programme before p moved by one per cent."""

    name = "solve_qp, warm"

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(perturbed(arguments), wanted, weights)
        self.start = solve_qp(**arguments, throw=False).warm_start


class OursSparse(Ours):
    """The equations as a sparse tensor; differentiated with respect to p only."""

    name = "solve_qp, sparse"

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__({**arguments, "A": arguments["A"].to_sparse().coalesce()}, ("p",), weights)

    @classmethod
    def takes(cls, case: str) -> bool:
        return case in ("e-rules", "mpc-20", "mpc-100", "mpc-200")


class TotalVariation(_Torch):
    name = "total_variation"
    modules = ()

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        p = arguments["p"]
        samples = (p.shape[-1] + 1) // 2
        self.leaves = {"p": p.clone().requires_grad_()}
        self.samples = samples

    @classmethod
    def takes(cls, case: str) -> bool:
        return case == "tv"

    def solve(self) -> tuple[Tensor, Tensor]:
        p = self.leaves["p"]
        solution = total_variation(-p[:, : self.samples], p[:, self.samples :], throw=False)
        z = solution.value
        return torch.cat([z, z.diff(dim=-1).abs()], -1), ~solution.success


class _DenseTorch(_Torch):
    """Those that are given the six blocks. ``parts`` are the ones to solve with, those to differentiate among them."""

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        self.parts = self.converted(arguments)
        self.leaves = {name: self.parts[name].clone().requires_grad_() for name in wanted}
        self.parts |= self.leaves

    def converted(self, arguments: Arguments) -> dict[str, Tensor]:
        problem = as_dense(arguments)
        return {field.name: getattr(problem, field.name) for field in fields(problem)}


class Qpth(_DenseTorch):
    """Shared matrices are expanded here: given as they are, their gradient would be the mean over the rows."""

    name = "qpth"
    modules = ("qpth.qp",)

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        self.layer = imported("qpth.qp").QPFunction(verbose=-1, check_Q_spd=False)

    @classmethod
    def takes(cls, case: str) -> bool:
        return CASES[case].definite and case != "mpc-100"  # minutes a run

    def solve(self) -> tuple[Tensor, None]:
        batch = len(self.parts["p"])
        cores = {"Q": 2, "p": 1, "G": 2, "h": 1, "A": 2, "b": 1}
        parts = [
            part if part.dim() > cores[name] else part.expand(batch, *part.shape) for name, part in self.parts.items()
        ]
        none = parts[0].new_zeros(0)
        return self.layer(*(part if part.numel() > 0 else none for part in parts)), None


class Moreau(_DenseTorch):
    """``solver="auto"``: the active-set method up to 500 variables, else the interior-point method. Keeps what it set
    up for matrices that all rows share as long as they do not change, as here."""

    name = "moreau"
    modules = ("moreau.torch",)
    solver = "auto"

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        moreau, layer = imported("moreau"), imported("moreau.torch")
        batch = len(self.parts["p"])
        self.Q_entries, Q_pattern = _pattern(self.parts["Q"], full="Q" in wanted)
        self.C_entries, C_pattern = _pattern(self._stacked(), full="G" in wanted or "A" in wanted)
        equations, inequalities = self.parts["b"].shape[-1], self.parts["h"].shape[-1]
        self.layer = layer.Solver(
            self.parts["p"].shape[-1],
            equations + inequalities,
            *Q_pattern,
            *C_pattern,
            cones=moreau.Cones(num_zero_cones=equations, num_nonneg_cones=inequalities),
            settings=moreau.Settings(device="cpu", batch_size=batch, enable_grad=True, solver=self.solver),
        )
        self.good = moreau.SolverStatus.Solved

    def _stacked(self) -> Tensor:
        A, G = self.parts["A"], self.parts["G"]
        return joined(A, G, -2) if A.shape[-2] else G

    def solve(self) -> tuple[Tensor, Tensor]:
        parts = self.parts
        Q, C = parts["Q"].flatten(-2)[..., self.Q_entries], self._stacked().flatten(-2)[..., self.C_entries]
        if Q.dim() != C.dim():
            Q, C = (part.expand(len(parts["p"]), part.shape[-1]) for part in (Q, C))
        right = joined(parts["b"], parts["h"], -1).expand(len(parts["p"]), -1)
        solution = self.layer.solve(Q, C, parts["p"], right)
        return solution.x, torch.tensor([status != self.good for status in self.layer.info.status])


def _pattern(matrix: Tensor, full: bool) -> tuple[Tensor | slice, tuple[Tensor, Tensor]]:
    """The entries that are stored, an index of the flattened matrix; row offsets and columns of these."""
    present = matrix != 0
    if present.dim() == 3:
        present = present.any(0)
    if full and bool(present.float().mean() > 0.5):
        present = torch.ones_like(present)
    rows, columns = present.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), present.sum(-1).cumsum(0)])
    entries = slice(None) if bool(present.all()) else rows * present.shape[1] + columns
    return entries, (offsets, columns)


class MoreauInteriorPoint(Moreau):
    name = "moreau, interior point"
    solver = "ipm"


class QPLayer(_DenseTorch):
    """ProxSuite. It does not say which rows failed."""

    name = "ProxSuite QPLayer"
    modules = ("proxsuite.torch.qplayer",)

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        self.layer = imported("proxsuite.torch.qplayer").QPFunction()
        self.low = torch.full_like(self.parts["h"], -1e20)

    def solve(self) -> tuple[Tensor, None]:
        parts = self.parts
        A, b = (parts["A"], parts["b"]) if parts["b"].numel() else (parts["p"].new_zeros(0), parts["p"].new_zeros(0))
        if parts["G"].dim() == 2 and "G" in self.leaves:
            parts = {**parts, "G": parts["G"].expand(len(parts["p"]), *parts["G"].shape)}
        return self.layer(parts["Q"], parts["p"], A, b, parts["G"], self.low, parts["h"])[0], None


class Qpax(AbstractPeer):
    """JAX, one ``vmap`` over the batch, compiled before it is timed. Its gradient is that of a relaxed programme."""

    name = "qpax"
    modules = ("jax", "qpax")
    names = ("Q", "p", "A", "b", "G", "h")

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        jax, qpax = imported("jax"), imported("qpax")
        jax.config.update("jax_enable_x64", True)
        self.jax = jax
        self.parts = self.converted(arguments)
        names = self.names
        core = {"Q": 2, "p": 1, "A": 2, "b": 1, "G": 2, "h": 1}
        axes = [0 if part.ndim > core[name] else None for name, part in zip(names, self.parts, strict=True)]
        primal = jax.vmap(lambda *parts: qpax.solve_qp_primal(*parts), in_axes=axes)
        weight = jax.numpy.asarray(weights.numpy())

        def loss(*parts: Any) -> Any:
            value = primal(*parts)
            return (weight * (value**2).sum(-1)).sum(), value

        self.solved = jax.jit(jax.vmap(lambda *parts: qpax.solve_qp(*parts)[4], in_axes=axes))
        self._forward = jax.jit(primal)
        self._both = jax.jit(jax.value_and_grad(loss, [names.index(name) for name in wanted], has_aux=True))
        self.forward()

    def converted(self, arguments: Arguments) -> list[Any]:
        problem = as_dense(arguments)
        return [self.jax.numpy.asarray(getattr(problem, name).numpy()) for name in self.names]

    def forward(self) -> Any:
        return self.jax.block_until_ready(self._forward(*self.parts))

    def both(self) -> Any:
        return self.jax.block_until_ready(self._both(*self.parts))

    def answer(self) -> Answer:
        (_, value), grads = self.both()
        value, solved, *grads = (torch.as_tensor(_copy(x)) for x in (value, self.solved(*self.parts), *grads))
        return Answer(value, solved == 0, dict(zip(self.wanted, grads, strict=True)))


def _copy(array: Any) -> Any:
    return imported("numpy").array(array)


class CvxpyLayer(_DenseTorch):
    """cvxpylayers on diffcp and Clarabel; an exception stands for the whole batch."""

    name = "cvxpylayers"
    modules = ("cvxpy", "cvxpylayers.torch", "diffcp")

    def __init__(self, arguments: Arguments, wanted: tuple[str, ...], weights: Tensor) -> None:
        super().__init__(arguments, wanted, weights)
        cp = imported("cvxpy")
        parts = self.parts
        n = parts["p"].shape[-1]
        z, p = cp.Variable(n), cp.Parameter(n)
        self.fed, given = ["p"], [p]

        def block(name: str) -> Any:
            """A constant where it is one, else a parameter."""
            value = parts[name]
            if name not in wanted and value.dim() == (1 if name in "bh" else 2):
                return value.numpy()
            given.append(cp.Parameter(value.shape[-1:] if name in "bh" else value.shape[-2:]))
            self.fed.append(name)
            return given[-1]

        if parts["Q"].dim() == 2 and "Q" not in wanted:
            square = cp.quad_form(z, parts["Q"].numpy(), assume_PSD=True)
        else:  # |root^T z|^2 with Q = root root^T
            given.append(cp.Parameter((n, n)))
            self.fed.append("Q")
            square = cp.sum_squares(given[-1] @ z)
        constraints = [block("G") @ z <= block("h")]
        if parts["b"].numel() > 0:
            constraints.append(block("A") @ z == block("b"))
        problem = cp.Problem(cp.Minimize(0.5 * square + p @ z), constraints)
        self.layer = imported("cvxpylayers.torch").CvxpyLayer(
            problem, given, [z], solver_args={"solve_method": "Clarabel", "n_jobs_forward": 1}
        )

    @classmethod
    def takes(cls, case: str) -> bool:
        factored = case != "svm-linear"  # Q has to be definite where every row has its own
        return factored and case not in ("b128", "e", "e-rules", "simplex", "box")  # minutes a run, or 26 GiB

    def solve(self) -> tuple[Tensor, None]:
        feed = [torch.linalg.cholesky(self.parts[name]).mT if name == "Q" else self.parts[name] for name in self.fed]
        threads = {"n_jobs_backward": 1} if torch.is_grad_enabled() else {}
        return self.layer(*feed, solver_args=threads)[0], None


#: qpax comes first: after some of the others it has been seen to wait for ever on large batches.
ALL: tuple[type[AbstractPeer], ...] = (
    Qpax, Ours, OursWarm, OursSparse, TotalVariation, Qpth, Moreau, MoreauInteriorPoint, QPLayer, CvxpyLayer, Piqp,
    PiqpSparse, PiqpMultistage, Daqp,
)  # fmt: skip


def by_name(name: str) -> type[AbstractPeer]:
    return next(peer for peer in ALL if peer.name == name)


def versions() -> list[str]:
    """Of the packages that are compared, where they are installed."""
    found = []
    names = "torch qpth moreau proxsuite qpax jax cvxpylayers diffcp piqp daqp clarabel"
    for package in names.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return found


def installed() -> list[type[AbstractPeer]]:
    """Those whose modules are there."""
    return [peer for peer in ALL if available(peer.modules)]
