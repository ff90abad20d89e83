"""A training step of the digits' net with a quadratic programme as its last layer, and with a linear one.

    python -m benchmarks.digits_step

Seconds of processor time, the median of some steps at batch 100, one thread; random images do.
"""

from __future__ import annotations

import statistics
import time

import torch

from icnn_rl.supervised.digits import DigitsModule


def median_steps(steps: int = 40) -> dict[str, float]:
    """Forward, loss, backward, Adam; the two nets take turns, so that they meet the same machine."""
    torch.manual_seed(0)
    models = {head: DigitsModule(head) for head in ("linear", "optnet")}
    optimizers = {head: torch.optim.Adam(model.parameters(), lr=1e-3) for head, model in models.items()}
    times: dict[str, list[float]] = {head: [] for head in models}
    for _ in range(steps + 2):
        batch = torch.rand(100, 784), torch.randint(0, 10, (100,))
        for head, model in models.items():
            start = time.process_time()
            optimizers[head].zero_grad()
            model.loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizers[head].step()
            times[head].append(time.process_time() - start)
    return {head: statistics.median(values[2:]) for head, values in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    times = median_steps()
    ratio = times["optnet"] / times["linear"]
    print(f"linear {1000 * times['linear']:.1f} ms, optnet {1000 * times['optnet']:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
