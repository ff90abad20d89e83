"""Optimal transport between two clouds of points in the plane, learned as the gradient of a convex network.

By Brenier's theorem the cheapest map for the squared distance is x -> grad f(x) with f convex, and f minimises the dual

    J(f) = E f(x) + E f*(y),        1/2 W_2^2 = 1/2 E |x|^2 + 1/2 E |y|^2 - min J,

x from the source, y from the target. f* and its gradient in f's weights come from icnn_rl.solvers.conjugate, each row
certified; f begins at the transport between the Gaussians with the clouds' means and covariances. The reference is the
exact assignment of a source point to every target point, by SciPy.

    python examples/optimal_transport.py            # prints the distances, saves optimal_transport.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from icnn_rl.nn import ICNN, gaussian_transport, initialise_gradient_map
from icnn_rl.solvers import conjugate, gradient_map


def clouds(points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A Gaussian, and a ring of eight small ones."""
    source = torch.randn(points, 2, generator=generator)
    angle = 2 * math.pi / 8 * torch.randint(8, (points,), generator=generator)
    centres = 3 * torch.stack((angle.cos(), angle.sin()), -1)
    return source, centres + 0.3 * torch.randn(points, 2, generator=generator)


def learn(source: Tensor, target: Tensor, steps: int) -> ICNN:
    """The potential, by gradient steps on the dual."""
    f = ICNN(2, (64, 64), quadratic_rank=2, strong_convexity=0.01)
    initialise_gradient_map(f, *gaussian_transport(source.mean(0), source.T.cov(), target.mean(0), target.T.cov()))
    optimiser = torch.optim.Adam(f.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    start = None
    for _ in range(steps):
        found = conjugate(f, target, warm_start=start)  # every row solved, or it raises
        start = found.maximiser.detach()
        optimiser.zero_grad()
        (f(source).mean() + found.value.mean()).backward()
        optimiser.step()
        schedule.step()
    return f


def squared_distance(f: ICNN, source: Tensor, target: Tensor) -> float:
    """W_2^2 from the dual: never above the true distance of the clouds, whatever f is."""
    with torch.no_grad():
        dual = f(source).mean() + conjugate(f, target).value.mean()
        return float(source.square().sum(-1).mean() + target.square().sum(-1).mean() - 2 * dual)


def exact_squared_distance(source: Tensor, target: Tensor) -> float:
    cost = torch.cdist(source.double(), target.double()).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def picture(f: ICNN, source: Tensor, target: Tensor, file: Path) -> None:
    moved = gradient_map(f, source).detach()
    figure, axes = plt.subplots(figsize=(5, 5))
    for start, end in zip(source[:150], moved[:150], strict=True):
        axes.plot([start[0], end[0]], [start[1], end[1]], color="0.8", lw=0.6, zorder=0)
    for points, name in ((source, "source"), (target, "target"), (moved, "grad f of the source")):
        axes.scatter(*points.T, s=4, label=name)
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("optimal_transport.png"))
    args = parser.parse_args()
    mpl.use("agg")
    torch.manual_seed(args.seed)
    source, target = clouds(args.points, torch.Generator().manual_seed(args.seed))
    f = learn(source, target, args.steps)
    learned, exact = squared_distance(f, source, target), exact_squared_distance(source, target)
    cost = float((gradient_map(f, source) - source).detach().square().sum(-1).mean())
    print(f"W2^2: {learned:.4f} from the dual, {exact:.4f} from the exact assignment ({learned / exact - 1:+.2%})")
    print(f"mean squared way of the map: {cost:.4f}")
    picture(f, source, target, args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
