"""``python -m benchmarks.qp [CASE ...]``: Markdown tables of solve_qp beside the other packages that are installed."""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

from benchmarks.qp.tables import main  # noqa: E402  # after the number of threads is set

main()
