"""Where jobs run: processes on this machine, or a Ray cluster. A pool is a function from a job to its future."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.jobs import Job, run_apart, run_job

__all__ = ["Submit", "local_pool", "ray_pool"]

Submit: TypeAlias = Callable[[Job], "Future[None]"]


@contextlib.contextmanager
def local_pool(workers: int) -> Iterator[Submit]:
    """At most ``workers`` jobs at a time, each in its own process with one thread. On exit, running jobs are stopped;
    their checkpoints stay."""
    threads = ThreadPoolExecutor(workers)
    processes: list[BaseProcess] = []
    futures: list[Future[None]] = []

    def submit(job: Job) -> Future[None]:
        futures.append(threads.submit(run_apart, job, processes))
        return futures[-1]

    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by NumPy and torch when a process loads them
    try:
        yield submit
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            for process in list(processes):
                process.terminate()
            time.sleep(0.1)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextlib.contextmanager
def ray_pool(address: str | None = None, gpus: float = 0.0) -> Iterator[Submit]:
    """Jobs as Ray tasks, one CPU and ``gpus`` GPUs (fractions allowed) each; as many at a time as fit the cluster.

    All nodes must see the jobs' folders under the same path and have this package installed. A task whose worker or
    node dies fails like one that raises; the caller decides whether to resubmit it.

    Args:
        address: the cluster's head; "auto": the cluster of this machine; None: RAY_ADDRESS, else the cluster that
            ``ray start`` started on this machine, else a local Ray that ends with the pool.
        gpus: share of a GPU per job.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        UserError: there is no cluster at the address.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--ray-address {address}: {error}") from error
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(run_job)
    running: list[Any] = []

    def submit(job: Job) -> Future[None]:
        running.append(remote.remote(job))
        future: Future[None] = running[-1].future()
        return future

    try:
        yield submit
    finally:
        for reference in running:
            ray.cancel(reference, force=True)  # no effect on finished tasks
        if ours:
            ray.shutdown()
