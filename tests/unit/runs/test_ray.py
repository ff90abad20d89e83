"""Sweeps on Ray: two nodes, one of which dies in mid-run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

_CLUSTER = """
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from icnn_rl.runs.evaluate import read_evaluations
from icnn_rl.runs.pools import ray_pool
from icnn_rl.runs.run_jobs import run_jobs
from icnn_rl.runs.sweep import make_jobs, read_sweep

small = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8}
sweep = read_sweep(
    {"agents": "td3,sac", "envs": "Pendulum-v1", "seeds": "0-1", "timesteps": 1500, "eval_episodes": 1}
    | {"checkpoint_freq": 50, "final_episodes": 1, "settings": {"all": small}}
)
jobs = make_jobs(sweep, Path("out"))
node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
second = cluster.add_node(**node)
ray.init(address=cluster.address, log_to_driver=False)


def at_work(state):
    started = any((state.job.folder / "checkpoints").glob("step_*"))
    return started and not (state.job.folder / "model.zip").exists()


def show(states):
    global second
    if second and sum(map(at_work, states)) == 2:  # one on each node
        cluster.remove_node(second, allow_graceful=False)
        second = None


with ray_pool() as submit:
    states = run_jobs(jobs, submit, 2, show)
assert second is None, "no node was killed"
for state in states:
    print(state.job.name, state.state, state.attempts, state.reason)
    assert state.state == "done", state.job.beside("log").read_text()
    assert [row.timesteps for row in read_evaluations(state.job.folder / "eval.csv")] == list(range(150, 1501, 150))
(again,) = [state for state in states if state.attempts]
assert again.attempts == 1
assert "going on from step" in again.job.beside("log").read_text()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_the_sweep_survives_the_death_of_a_node(tmp_path):
    (tmp_path / "two_nodes.py").write_text(_CLUSTER)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "two_nodes.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
