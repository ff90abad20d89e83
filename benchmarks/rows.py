"""Results that are kept as they come, so that a benchmark that is stopped leaves what it has measured; and in pages.

    python -m benchmarks.rows docs/performance.md

puts the tables of a page that follow a line ``<!-- results/NAME.csv -->`` there anew.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path


class Rows:
    """Prints every row, and writes it to a CSV file at once.

    Args:
        path: the file, begun anew; None: print only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._names = path, ()  # type: tuple[str, ...]

    def add(self, **row: object) -> None:
        """Numbers to four digits. Every row has the names of the first."""
        shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        new = not self._names
        if new:
            self._names = tuple(shown)
            print(" | ".join(self._names))
        print(" | ".join(shown[name] for name in self._names), flush=True)
        if self.path is not None:
            with self.path.open("w" if new else "a", newline="") as file:
                writer = csv.DictWriter(file, self._names)
                if new:
                    writer.writeheader()
                writer.writerow(shown)


def markdown(path: Path) -> str:
    """A CSV file as a table."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    lines = (names, ["---"] * len(names), *rows)
    return "".join(f"| {' | '.join('-' if cell == 'nan' else cell for cell in cells)} |\n" for cells in lines)


def renewed(page: Path) -> str:
    """The page's text with the tables of the files that it names."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}{markdown(page.parent / found[2])}"

    return re.sub(r"^(<!-- (\S+\.csv) -->\n)(?:\|.*\n)*", table, page.read_text(), flags=re.MULTILINE)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(renewed(Path(name)))
