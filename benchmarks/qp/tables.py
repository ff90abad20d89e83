"""The command line of the benchmarks, and the Markdown that it prints."""

from __future__ import annotations

import argparse
import math
import os
import platform
from pathlib import Path

import torch

from benchmarks.qp import measure, memory, peers, single, throughput
from benchmarks.qp.cases import CASES
from benchmarks.rows import Rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qp", description="solve_qp beside other packages")
    parser.add_argument(
        "cases",
        nargs="*",
        help=f"of {', '.join(CASES)}; with --single, of {', '.join(single.SEQUENCES)}; with --throughput, of "
        f"{', '.join(throughput.CASE_BATCHES)}; all by default",
    )
    parser.add_argument("--only", help="packages to measure, as named in the tables, separated by semicolons")
    parser.add_argument("--budget", type=float, default=measure.BUDGET, help="seconds a package and kind of run")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time; case e by default")
    parser.add_argument("--single", action="store_true", help="one programme after the other, by the clock, instead")
    parser.add_argument("--throughput", metavar="DEVICE", help="rows a second against the batch size instead")
    parser.add_argument("--largest", type=int, default=10**9, help="batch of --throughput")
    parser.add_argument("--csv", type=Path, help="where the table of --throughput goes, too")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    known = single.SEQUENCES if args.single else throughput.CASE_BATCHES if args.throughput else CASES
    unknown = sorted(set(args.cases) - set(known))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    torch.set_num_threads(1)
    if args.peak_of:
        memory.report(args.peak_of, args.cases[0])
    if args.single:
        _print_single(args.cases or list(single.SEQUENCES), args.only)
        return
    among = peers.installed()
    if args.only:
        among = [peer for peer in among if peer.name in args.only.split(";")]
    if args.throughput:
        device, table_rows = args.throughput, Rows(args.csv)
        print(f"{torch.cuda.get_device_name() if device != 'cpu' else _machine()}, float64")
        for row in throughput.rows(device, args.cases or list(throughput.CASE_BATCHES), args.budget, args.largest):
            table_rows.add(**row)
    elif args.memory:
        _print_memory(args.cases or ["e"], [peer.name for peer in among])
    else:
        print(f"{_machine()}; {', '.join(peers.versions())}")
        for case in args.cases or CASES:
            print(table(measure.run(case, among, args.budget)), flush=True)


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread, Python {platform.python_version()}"


def _print_memory(cases: list[str], names: list[str]) -> None:
    print("| case | package | peak of forward + backward, MiB |\n|---|---|---|")
    for case in cases:
        for name in names:
            if peers.by_name(name).takes(case) and peers.by_name(name).differentiates:
                print(f"| {case} | {name} | {memory.peak_mib(name, case)} |", flush=True)


def _print_single(sequences: list[str], only: str | None) -> None:
    names = [name for name in single.installed() if only is None or name in only.split(";")]
    print(f"{_machine()}; {', '.join(peers.versions())}")
    for sequence in sequences:
        print(single.table(sequence, single.run(sequence, names)), flush=True)


def table(result: measure.Result) -> str:
    """One case."""
    spec, exact = CASES[result.case], result.reference
    rows = len(exact.value)
    smooth = int(exact.smooth.sum())
    lines = [
        f"\n### {result.case}: {rows} x {spec.title}\n",
        f"Gradients of {', '.join(spec.wanted)} on the {smooth} of {rows} rows where the solution has no kink. "
        f"Reference: KKT residual {result.residual:.0e}.\n",
        "| package | forward, ms | qpth / this | forward + backward, ms | qpth / this | error | gradient error "
        "| failed | wrong: value, gradient |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = result.record("qpth")
    for record in result.records:
        if record.note:
            lines.append(f"| {record.name} | {record.note} | | | | | | {record.failed} | |")
            continue
        cells = [record.name]
        for kind in ("forward", "both"):
            best = getattr(record, kind).best
            ratio = getattr(base, kind).best / best if base is not None else math.nan
            cells += ["-" if math.isnan(best) else f"{1e3 * best:.3g}", "-" if math.isnan(ratio) else f"{ratio:.1f}"]
        cells += [_small(record.error), _small(record.gradient_error), str(record.failed)]
        cells.append(f"{record.wrong}, {'-' if math.isnan(record.gradient_error) else record.wrong_gradients}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _small(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.0e}"
