"""One table of finished runs, to keep instead of their folders.

    python -m benchmarks.keep RUN [RUN ...] --out NAME.csv

Writes every evaluation to NAME.csv and the settings of the runs to NAME.yml; `icnn-rl report` and the benchmarks that
print tables take NAME.csv for the folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icnn_rl.runs.report import find_runs, read_runs, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN", help="run folders, or folders that hold some")
    parser.add_argument("--out", type=Path, required=True, help="NAME.csv")
    args = parser.parse_args()
    runs, unfinished = read_runs(find_runs(args.paths))
    write_table(args.out, runs)
    if unfinished:
        sys.exit("not finished, left out: " + ", ".join(map(str, unfinished)))


if __name__ == "__main__":
    main()
