"""Results that are kept as they come, so that a benchmark that is stopped leaves what it has measured."""

from __future__ import annotations

import csv
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
