"""``solve_qp`` on every case: what it finds, and its time beside qpth's where that is installed.

The tables of all packages: `make bench-qp`.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.qp import measure, peers, tables
from benchmarks.qp.cases import CASES

#: Largest relative error of the value and of the gradients.
LIMIT = 1e-8


@pytest.mark.parametrize("case", CASES)
def test_accurate_and_faster_than_qpth(benchmark: BenchmarkFixture, case: str) -> None:
    among = [peer for peer in peers.installed() if peer.name == "qpth" or not peer.modules]
    result = measure.run(case, among, budget=1.0)
    print("\n" + tables.table(result))
    ours = [record for record in result.records if record.name != "qpth"]
    for record in ours:
        benchmark.extra_info[record.name] = {
            "forward, ms": 1e3 * record.forward.best,
            "forward + backward, ms": 1e3 * record.both.best,
            "error": record.error,
            "gradient error": record.gradient_error,
            "failed": record.failed,
        }
    spec = CASES[case]
    weights = result.reference.smooth.double()
    benchmark.pedantic(peers.Ours(spec.arguments(), spec.wanted, weights).both, rounds=3)
    for record in ours:
        assert record.failed == 0, record
        assert record.error <= LIMIT, record
        assert record.gradient_error <= LIMIT, record
    qpth = result.record("qpth")
    if qpth is not None and not qpth.note:
        assert all(record.both.best <= qpth.both.best for record in ours)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no CUDA device")
def test_throughput_on_a_gpu() -> None:
    tables.main(["--throughput", "cuda"])
