"""``QPLayer``: a quadratic programme as a module whose matrices are learned."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from icnn_rl.checks import (
    check_choice,
    check_float_tensor,
    check_last_dim,
    check_positive_int,
    check_range,
    check_same_kind,
)
from icnn_rl.eager import eager
from icnn_rl.qp.api import solve_with_precision
from icnn_rl.qp.external import External
from icnn_rl.qp.inputs import Arguments
from icnn_rl.qp.problem import Diagonal
from icnn_rl.qp.pytree import leaves, map_tensors
from icnn_rl.qp.settings import PrimalDual
from icnn_rl.qp.solution import ActiveSet, QPSolution

__all__ = ["QPLayer"]

#: Everything that can be learned.
_PARTS = ("Q", "p", "G", "h", "A", "b", "h_low", "lb", "ub")

#: What is a function of z_0 if learned.
_OF_Z0 = frozenset({"h", "b", "h_low", "lb", "ub"})
_NO_Z0 = "z0: this layer has none: neither its h nor its b is a function of it, nor another part."

Numbers = Tensor | float
T = TypeVar("T")


class QPLayer(nn.Module):
    """The minimiser of a quadratic programme as a function of its linear term:

        z(p) = argmin_z  1/2 z^T Q z + (p + p_0)^T z    subject to    h_low <= G z <= h,  A z = b,  lb <= z <= ub.

    Any of Q, p (that is, p_0), G, h, A, b, h_low, lb and ub are learned; what is not is constant or comes with each
    call. Learned parts are free parameters, in forms that leave every problem solvable whatever their values (evaluated
    in float64 for float32 parameters, as the solve is, unless the solver says otherwise):

        Q = L L^T + eps I,  L lower triangular,
        h = G z_0 + s_0,  h_low = G z_0 - s_low,  b = A z_0,  lb = z_0 - t,  ub = z_0 + t',  all s and t softplus(.).

    z_0, which is within the bounds that are not learned (lb + softplus(.), ub - softplus(.), or lb + (ub - lb)
    sigmoid(.) between two), is then a feasible point. It is learned if anything that is a function of it is. h and b
    that are neither learned nor given follow z_0 and s_0 too; give one of them as numbers, or a bound or h_low with a
    call, and whether the constraints have a common point is up to these.

    Args:
        n: number of variables.
        n_ineq, n_eq: numbers of rows of G and A. What belongs to rows that do not exist is left out.
        learn: what is learned, some of "Q", "p", "G", "h", "A", "b", "h_low", "lb", "ub".
        Q: what it starts from if learned, else its constant value: (n, n), ``Diagonal(d)`` with d (n,), or a number,
            the multiple of the identity; 1 by default. Learned, its eigenvalues must exceed ``eps``.
        p: likewise, (n,); 0 by default.
        G, A: likewise, (n_ineq, n) and (n_eq, n). Learned, they start from normal numbers of variance 1 / n, drawn from
            torch's generator; else, without a value here, each call has to bring one.
        h, b: constant values, (n_ineq,) and (n_eq,). Learned ones start from ``z0`` and ``s0`` instead.
        h_low: likewise, (n_ineq,); without it or its name in ``learn`` rows of G have no lower side.
        lb, ub: (n,) or numbers: what they start from if learned, finite, 1 from z_0 by default; else constant bounds,
            -inf and +inf: none.
        z0: (n,), what z_0 starts from, strictly within the bounds; by default 0, halfway between two bounds, or
            log 2 away from a single one.
        s0: (n_ineq,) or a number, what s_0 and s_low start from, > 0.
        eps: > 0, the least eigenvalue of a learned Q.
        solver: settings of :func:`solve_qp`; ``PrimalDual()`` by default.
        throw: raise SolveError if a row fails. Otherwise look at the status that ``return_solution=True`` brings: the
            rows that failed hold what was found, and pass no gradient on.
        device, dtype: of the parameters, float32 or float64; the input must have the same.

    Raises:
        ValueError: a wrong argument.

    Example:
        The layer of OptNet's 4 x 4 Sudoku: Q = 0.1 I, z >= 0, the rules A z = A z_0 learned.

        >>> layer = QPLayer(64, n_eq=40, learn=("A", "b"), Q=0.1, lb=0.0)
        >>> layer(-torch.rand(150, 64)).shape
        torch.Size([150, 64])

    References:
        B. Amos, J. Z. Kolter, OptNet: Differentiable optimization as a layer in neural networks, ICML 2017.
    """

    L: Tensor
    Q_constant: Tensor
    z0_free: Tensor | None
    s0_free: Tensor | None
    p: Tensor | None
    G: Tensor | None
    A: Tensor | None
    h_constant: Tensor | None
    b_constant: Tensor | None
    h_low_constant: Tensor | None
    lb_constant: Tensor | None
    ub_constant: Tensor | None
    s_low_free: Tensor | None
    lb_free: Tensor | None
    ub_free: Tensor | None

    def __init__(
        self,
        n: int,
        n_ineq: int = 0,
        n_eq: int = 0,
        learn: Iterable[str] = ("Q", "G", "A"),
        *,
        Q: Numbers | Diagonal | None = None,
        p: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        h_low: Tensor | None = None,
        lb: Numbers | None = None,
        ub: Numbers | None = None,
        z0: Tensor | None = None,
        s0: Numbers = 1.0,
        eps: float = 1e-4,
        solver: PrimalDual | External | None = None,
        throw: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n = check_positive_int("n", n)
        self.n_ineq, self.n_eq = _check_count("n_ineq", n_ineq), _check_count("n_eq", n_eq)
        self.learn = self._check_learn(learn)
        self.eps = check_range("eps", eps, 0.0, math.inf, open_low=True)
        self.solver = PrimalDual() if solver is None else solver
        self.throw = throw
        like = check_float_tensor("dtype", torch.empty(0, device=device, dtype=dtype))
        self._set_objective(Q, p, like)
        for name, bound in (("lb", lb), ("ub", ub)):
            constant = None if name in self.learn else _optional(name, bound, (n,), like)
            self._set(f"{name}_constant", constant, learned=False)
        low, high = self.lb_constant, self.ub_constant
        if low is not None and high is not None and bool((low > high).any()):
            raise ValueError("lb, ub: expected lb <= ub, got a bound that is crossed; no point would be feasible.")
        self._set_rows("G", "h", self.n_ineq, G, h, like)
        self._set_rows("A", "b", self.n_eq, A, b, like)
        self._set_constant("h_low", self.n_ineq, h_low, like)
        self._set_feasible_point(z0, s0, like)
        self._set_bound("lb", -1.0, lb, like)
        self._set_bound("ub", 1.0, ub, like)

    def _check_learn(self, learn: Iterable[str]) -> tuple[str, ...]:
        """The parts to learn that exist, in the order of the mathematics."""
        if isinstance(learn, str):
            raise ValueError(f"learn: expected a sequence of names such as ('Q', 'G'), got the string {learn!r}.")
        names = {check_choice("learn", name, _PARTS) for name in learn}
        rows = {"G": self.n_ineq, "h": self.n_ineq, "h_low": self.n_ineq, "A": self.n_eq, "b": self.n_eq}
        return tuple(name for name in _PARTS if name in names and rows.get(name, 1))

    def _set(self, name: str, value: Tensor | None, *, learned: bool) -> None:
        """A parameter, or a buffer."""
        if learned:
            assert value is not None
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def _set_objective(self, Q: Numbers | Diagonal | None, p: Tensor | None, like: Tensor) -> None:
        n = self.n
        value = torch.tensor(1.0).to(like) if Q is None else _quadratic(Q, n, like)
        if "Q" in self.learn:
            self._set("L", _lower_factor(value, n, self.eps), learned=True)
        else:
            self._set("Q_constant", value, learned=False)
        learned = "p" in self.learn
        self._set("p", _optional("p", torch.zeros(n) if p is None and learned else p, (n,), like), learned=learned)

    def _set_rows(
        self, name: str, right: str, rows: int, matrix: Tensor | None, constant: Tensor | None, like: Tensor
    ) -> None:
        """G and h, or A and b."""
        learned = name in self.learn
        if matrix is None and learned:
            matrix = torch.randn(rows, self.n, dtype=like.dtype, device=like.device) / math.sqrt(self.n)
        self._set(name, _optional(name, matrix, (rows, self.n), like), learned=learned)
        self._set_constant(right, rows, constant, like)

    def _set_constant(self, right: str, rows: int, constant: Tensor | None, like: Tensor) -> None:
        """h, b or h_low as numbers."""
        if right in self.learn and constant is not None:
            raise ValueError(f"{right}: it is learned as a function of z0; give z0, what that starts from, instead.")
        self._set(f"{right}_constant", _optional(right, constant, (rows,), like), learned=False)

    @torch.no_grad()
    def move_z0_(self, z0: Tensor) -> None:
        """Let z_0 be this vector (n,), strictly within the bounds."""
        if self.z0_free is None:
            raise RuntimeError(_NO_Z0)
        start = _tensor("z0", z0, (self.n,), self.z0_free)
        self.z0_free.copy_(_free("z0", start, self.lb_constant, self.ub_constant))

    def _set_feasible_point(self, z0: Tensor | None, s0: Numbers, like: Tensor) -> None:
        """The free parameters of z_0 and s_0, where h or b depend on these."""
        h_follows = self.n_ineq > 0 and self.h_constant is None
        b_follows = self.n_eq > 0 and self.b_constant is None
        any_follows = h_follows or b_follows or not _OF_Z0.isdisjoint(self.learn)
        point = torch.zeros(self.n).to(like)
        if z0 is not None:
            if not any_follows:
                raise ValueError("z0: neither h nor b is a function of it here. Leave it out, or leave out h or b.")
            point = _free("z0", _tensor("z0", z0, (self.n,), like), self.lb_constant, self.ub_constant)
        learned = not _OF_Z0.isdisjoint(self.learn)
        self._set("z0_free", point if any_follows else None, learned=learned)
        zero = torch.zeros(self.n_ineq).to(like)
        slack = _free("s0", _tensor("s0", s0, (self.n_ineq,), like).expand(self.n_ineq), zero, None)
        self._set("s0_free", slack if h_follows else None, learned="h" in self.learn)
        low = "h_low" in self.learn
        self._set("s_low_free", slack.clone() if low else None, learned=low)

    def _set_bound(self, name: str, sign: float, start: Numbers | None, like: Tensor) -> None:
        """The distance of a learned bound from z_0."""
        if name not in self.learn:
            self._set(f"{name}_free", None, learned=False)
            return
        away = torch.ones(self.n).to(like)
        if start is not None:
            away = sign * (_tensor(name, start, (self.n,), like).expand(self.n) - self.z0.detach())
            if not bool(((away > 0) & away.isfinite()).all()):
                side = "below" if sign < 0 else "above"
                raise ValueError(f"{name}: it is learned, so expected finite numbers {side} z0, got {start}.")
        self._set(f"{name}_free", _softplus_inverse(away), learned=True)

    @property
    def Q(self) -> Tensor | Diagonal:  # noqa: N802  the mathematics' name
        """L L^T + eps I, (n, n), or the constant value."""
        return self._quadratic(self._like.dtype)

    @property
    def z0(self) -> Tensor:
        """(n,), the feasible point that h and b are functions of."""
        return self._point(self._like.dtype)

    @property
    def s0(self) -> Tensor:
        """(n_ineq,) >= 0, the slack of ``z0`` in G z <= h."""
        return self._slack(self._like.dtype)

    @property
    def h(self) -> Tensor | None:
        """G z_0 + s_0, (n_ineq,), or the constant value; None without a G."""
        return self._h(self.G)

    @property
    def h_low(self) -> Tensor | None:
        """G z_0 - s_low, (n_ineq,), or the constant value; None without one."""
        return self._h_low(self.G)

    @property
    def lb(self) -> Tensor | None:
        """z_0 - t, (n,), or the constant value, () or (n,); None without one."""
        return self._bound("lb", self._like.dtype)

    @property
    def ub(self) -> Tensor | None:
        """z_0 + t', (n,), or the constant value, () or (n,); None without one."""
        return self._bound("ub", self._like.dtype)

    @property
    def b(self) -> Tensor | None:
        """A z_0, (n_eq,), or the constant value; None without an A."""
        return self._b(self.A)

    @property
    def _like(self) -> Tensor:
        return self.L if "Q" in self.learn else self.Q_constant

    # The formulas. They are evaluated in the precision of the solve: Q = L L^T and h = G z_0 + s_0 rounded to float32
    # may be indefinite, or leave no feasible point.

    def _quadratic(self, dtype: torch.dtype) -> Tensor | Diagonal:
        if "Q" in self.learn:
            lower = self.L.tril().to(dtype)
            return lower @ lower.mT + self.eps * torch.eye(self.n, dtype=dtype, device=lower.device)
        constant = self.Q_constant.to(dtype)
        return Diagonal(constant) if constant.dim() == 1 else constant

    def _point(self, dtype: torch.dtype) -> Tensor:
        if self.z0_free is None:
            raise RuntimeError(_NO_Z0)
        return _within(self.z0_free.to(dtype), self.lb_constant, self.ub_constant)

    def _slack(self, dtype: torch.dtype) -> Tensor:
        if self.s0_free is None:
            raise RuntimeError("s0: this layer has none: its h is no function of it.")
        return softplus(self.s0_free.to(dtype))

    def _h(self, G: Tensor | None) -> Tensor | None:
        if self.h_constant is not None or G is None:
            return self.h_constant
        return torch.matmul(G, self._point(G.dtype)) + self._slack(G.dtype)

    def _h_low(self, G: Tensor | None) -> Tensor | None:
        if self.s_low_free is None or G is None:
            return self.h_low_constant
        return torch.matmul(G, self._point(G.dtype)) - softplus(self.s_low_free.to(G.dtype))

    def _bound(self, name: str, dtype: torch.dtype) -> Tensor | None:
        constant: Tensor | None = getattr(self, f"{name}_constant")
        free: Tensor | None = getattr(self, f"{name}_free")
        if free is None:
            return constant
        away = softplus(free.to(dtype))
        return self._point(dtype) - away if name == "lb" else self._point(dtype) + away

    def _b(self, A: Tensor | None) -> Tensor | None:
        if self.b_constant is not None or A is None:
            return self.b_constant
        return torch.matmul(A, self._point(A.dtype))

    @overload
    def forward(
        self,
        p: Tensor | None = None,
        *,
        Q: Numbers | Diagonal | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        h_low: Tensor | None = None,
        lb: Numbers | None = None,
        ub: Numbers | None = None,
        warm_start: ActiveSet | None = None,
        return_solution: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        p: Tensor | None = None,
        *,
        Q: Numbers | Diagonal | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        h_low: Tensor | None = None,
        lb: Numbers | None = None,
        ub: Numbers | None = None,
        warm_start: ActiveSet | None = None,
        return_solution: Literal[True],
    ) -> tuple[Tensor, QPSolution]: ...

    @eager("QPLayer", mapped=True)
    def forward(
        self,
        p: Tensor | None = None,
        *,
        Q: Numbers | Diagonal | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        h_low: Tensor | None = None,
        lb: Numbers | None = None,
        ub: Numbers | None = None,
        warm_start: ActiveSet | None = None,
        return_solution: bool = False,
    ) -> Tensor | tuple[Tensor, QPSolution]:
        """Solve.

        Args:
            p: (..., n); may be left out of a layer that has a p_0.
            Q, G, h, A, b, h_low, lb, ub: take the place of what is not learned, for this call, with or without batch
                dimensions as in :func:`solve_qp`. h = G z_0 + s_0, h_low and b = A z_0, where they follow, are of the
                call's G and A.
            warm_start: ``solution.warm_start`` of a call with the same shapes.
            return_solution: return the pair (z, solution).

        Returns:
            z (..., n), differentiable in p, in the parameters, and in everything given here.

        Raises:
            ValueError: a wrong argument, for instance a value for what is learned.
            SolveError: some row failed and ``throw`` is set; carries the solution.
        """
        p = self._linear_term(p)
        brought = {"Q": Q, "G": G, "h": h, "A": A, "b": b, "h_low": h_low, "lb": lb, "ub": ub}
        for name, value in brought.items():
            self._check_given(name, value)
        dtype = torch.float64 if self.solver.dtype == "float64" else p.dtype

        def cast(value: T) -> T:
            return map_tensors(lambda t: t.to(dtype), value)

        G, A = cast(self._rows("G", G, self.n_ineq)), cast(self._rows("A", A, self.n_eq))
        given = Arguments(
            Q=self._quadratic(dtype) if Q is None else cast(Q),
            p=cast(p),
            G=G,
            h=cast(self._h(G) if h is None else h),
            A=A,
            b=cast(self._b(A) if b is None else b),
            lb=cast(self._bound("lb", dtype) if lb is None else lb),
            ub=cast(self._bound("ub", dtype) if ub is None else ub),
            h_low=cast(self._h_low(G) if h_low is None else h_low),
        )
        solution = solve_with_precision(given, p.dtype, solver=self.solver, warm_start=warm_start, throw=self.throw)
        return (solution.value, solution) if return_solution else solution.value

    def _linear_term(self, p: Tensor | None) -> Tensor:
        if p is None:
            if self.p is None:
                raise ValueError("p: missing. Only a layer that learns p or was given one can be called without.")
            return self.p
        check_last_dim("p", check_float_tensor("p", p), self.n)
        check_same_kind("p", p, "the layer", self._like)
        return p if self.p is None else p + self.p

    def _check_given(self, name: str, value: object) -> None:
        if value is not None and name in self.learn:
            raise ValueError(f"{name}: this layer learns it, so no call can bring another.")
        for tensor in leaves(value):
            check_same_kind(name, check_float_tensor(name, tensor), "the layer", self._like)

    def _rows(self, name: str, given: Tensor | None, rows: int) -> Tensor | None:
        """G or A of this call."""
        matrix: Tensor | None = getattr(self, name) if given is None else given
        if matrix is None:
            if rows:
                raise ValueError(f"{name}: missing. It is neither learned nor constant, so each call has to bring it.")
            return None
        if matrix.dim() < 2 or matrix.shape[-2:] != (rows, self.n):
            raise ValueError(f"{name}: expected shape (..., {rows}, {self.n}), got {tuple(matrix.shape)}.")
        return matrix

    def extra_repr(self) -> str:
        constants = {"Q": self._buffers.get("Q_constant"), "p": self._buffers.get("p")}
        constants |= {"G": self._buffers.get("G"), "h": self.h_constant, "A": self._buffers.get("A")}
        constants |= {"b": self.b_constant, "h_low": self.h_low_constant}
        constants |= {"lb": self.lb_constant, "ub": self.ub_constant}
        texts = [f"n={self.n}, n_ineq={self.n_ineq}, n_eq={self.n_eq}, learn={self.learn}"]
        texts += [f"{name}={_text(name, value)}" for name, value in constants.items() if value is not None]
        texts += [f"eps={self.eps:g}"] if "Q" in self.learn else []
        return ", ".join([*texts, f"solver={self.solver}", f"throw={self.throw}"])


def _check_count(name: str, value: int) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else check_positive_int(name, value)


def _tensor(name: str, value: Numbers, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A copy of ``value``, a number or of the given shape, in the kind of ``like``."""
    tensor = torch.as_tensor(value).detach().to(like, copy=True)
    if tensor.dim() > 0 and tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}.")
    return tensor


def _optional(name: str, value: Numbers | None, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    return None if value is None else _tensor(name, value, shape, like)


def _quadratic(Q: Numbers | Diagonal, n: int, like: Tensor) -> Tensor:
    """The value of a constant Q: a number, the diagonal (n,), or (n, n)."""
    if isinstance(Q, Diagonal):
        return _tensor("Q", Q.d, (n,), like)
    return _tensor("Q", Q, (n, n), like)


def _lower_factor(Q: Tensor, n: int, eps: float) -> Tensor:
    """L (n, n) with L L^T + eps I = Q."""
    dense = Q if Q.dim() == 2 else torch.diag_embed(Q.expand(n))
    chol, info = torch.linalg.cholesky_ex(0.5 * (dense + dense.mT) - eps * torch.eye(n).to(dense))
    if int(info) != 0:
        raise ValueError(f"Q: expected eigenvalues above eps = {eps:g}, for it is learned as L L^T + eps I.")
    factor: Tensor = chol.contiguous()  # LAPACK's comes by columns, which some optimizers and file formats refuse
    return factor


def _within(t: Tensor, lb: Tensor | None, ub: Tensor | None) -> Tensor:
    """A vector between the bounds, any such, as a function of a free one: increasing, without end on a free side."""
    low, above, high, below = _sides(t, lb, ub)
    between = low + (high - low) * t.sigmoid()
    single = torch.where(above, low + softplus(t), high - softplus(-t))
    return torch.where(above & below, between, torch.where(above | below, single, t))


def _free(name: str, z: Tensor, lb: Tensor | None, ub: Tensor | None) -> Tensor:
    """The t with ``_within(t, lb, ub)`` = z."""
    low, above, high, below = _sides(z, lb, ub)
    fixed = above & below & (low == high)
    if bool((~fixed & ((above & (z <= low)) | (below & (z >= high)))).any()):
        raise ValueError(f"{name}: expected numbers strictly within the bounds, got {z.tolist()}.")
    between = ((z - low) / torch.where(fixed, 1.0, high - low)).logit()
    single = torch.where(above, _softplus_inverse(z - low), -_softplus_inverse(high - z))
    t = torch.where(above & below, between, torch.where(above | below, single, z))
    return torch.where(fixed, 0.0, t)


def _sides(like: Tensor, lb: Tensor | None, ub: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower bounds (0 where there are none), where there are, and upper ones alike."""
    none = torch.full_like(like, torch.inf)
    low, high = (-none if lb is None else lb.expand_as(like)), (none if ub is None else ub.expand_as(like))
    above, below = torch.isfinite(low), torch.isfinite(high)
    return torch.where(above, low, 0.0), above, torch.where(below, high, 0.0), below


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


def _text(name: str, value: Tensor) -> str:
    """A number, or the shape."""
    if value.dim() == 0:
        return f"{float(value):g}"
    shape = "x".join(map(str, value.shape))
    return f"Diagonal({shape})" if name == "Q" and value.dim() == 1 else f"({shape})"
