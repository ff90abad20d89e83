"""Model-predictive control with a cost that is known from measurements alone.

A cart x' = A x + B u, |u| <= 1, is to be driven to the middle. What a state and an input cost can only be measured,
with noise. A convex network f(x, u) is fitted to the measurements. As the states are affine in the inputs,

    sum over t of f(x_t, u_t),        x_{t+1} = A x_t + B u_t,

is convex in (u_0, ..., u_{N-1}): each step of the controller has a global minimum, which minimize() finds and
certifies, for all carts at once. For comparison the same controller is given the true cost.

    python examples/surrogate_mpc.py                # prints what either controller paid
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icnn_rl import Box, minimize
from icnn_rl.nn import ICNN
from icnn_rl.solvers import ProjectedNewton

A, B = torch.tensor([[1.0, 0.2], [0.0, 1.0]]), torch.tensor([0.02, 0.2])
Cost = Callable[[Tensor], Tensor]  # of (..., 3): position, speed, input


def true_cost(z: Tensor) -> Tensor:
    """Far positions cost in proportion, speed by its square, and pushing to the right more than to the left."""
    position, speed, u = z.unbind(-1)
    return torch.log(torch.cosh(3 * position)) + 0.5 * speed**2 + 0.3 * (torch.exp(u) - u - 1)


def fit(measurements: int, steps: int) -> ICNN:
    """A convex surrogate, by least squares on noisy measurements."""
    z = torch.cat((4 * torch.rand(measurements, 2) - 2, 2 * torch.rand(measurements, 1) - 1), -1)
    cost = true_cost(z) + 0.1 * torch.randn(measurements)
    f = ICNN(3, (32, 32), strong_convexity=1e-2)
    optimiser = torch.optim.Adam(f.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (f(z) - cost).square().mean().backward()
        optimiser.step()
        schedule.step()
    return f.requires_grad_(False)


@dataclass(frozen=True)
class Trajectory:
    """What a sequence of inputs u (batch, N) costs from x0 (batch, 2): convex in u, as the stage cost is in (x, u)."""

    stage: Cost
    x0: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        x, total = self.x0, torch.zeros(len(u))
        for t in range(u.shape[-1]):
            x = x @ A.T + B * u[:, t, None]
            total = total + self.stage(torch.cat((x, u[:, t, None]), -1))
        return total


def drive(stage: Cost, x: Tensor, seconds: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Run the controller with this stage cost; what each cart paid of the true one, and the largest certified gap."""
    paid, worst = torch.zeros(len(x)), torch.zeros(())
    plan = torch.zeros(len(x), horizon)
    for _ in range(5 * seconds):
        solution = minimize(Trajectory(stage, x), ProjectedNewton(tol=1e-5), plan, domain=Box(-1.0, 1.0))
        u = solution.value.detach()
        x = x @ A.T + B * u[:, :1]
        paid = paid + true_cost(torch.cat((x, u[:, :1]), -1))
        worst = torch.maximum(worst, solution.gap.max())
        plan = torch.cat((u[:, 1:], u[:, -1:]), -1)  # the next start: the same plan, a step later
    return paid, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--carts", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    f = fit(args.measurements, args.steps)
    x = 3 * torch.rand(args.carts, 2) - 1.5
    for name, stage in (("true", true_cost), ("learned", f)):
        paid, gap = drive(stage, x, args.seconds, horizon=10)
        print(f"{name} cost: paid {float(paid.mean()):.3f} a cart; no plan further than {float(gap):.1e} from the best")


if __name__ == "__main__":
    main()
