"""Folders that can tell whether they are whole; single files are :mod:`icnn_rl._files`'s business."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from icnn_rl._files import sync, write_file, write_text
from icnn_rl.experiment.errors import UserError

__all__ = ["read_manifest", "write_file", "write_folder", "write_text"]

MANIFEST = "manifest.json"


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; on leaving, a manifest of sizes and checksums is added and the folder takes its name
    in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        entries = {}
        for file in sorted(temporary.iterdir()):
            sync(file)
            entries[file.name] = {"bytes": file.stat().st_size, "sha256": _digest(file)}
        write_text(temporary / MANIFEST, json.dumps(entries, indent=1))
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_manifest(path: Path) -> None:
    """Check that a folder is what :func:`write_folder` wrote.

    Raises:
        UserError: a file is missing, shorter or different; names it.
    """
    manifest = path / MANIFEST
    try:
        entries = json.loads(manifest.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{manifest}: missing or unreadable ({error}). The checkpoint is not whole; delete {path} to use an "
            "earlier one."
        ) from error
    for name, entry in entries.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file}: missing. The checkpoint is not whole; delete {path} to use an earlier one.")
        size = file.stat().st_size
        if size != entry["bytes"] or _digest(file) != entry["sha256"]:
            raise UserError(
                f"{file}: damaged ({size} bytes, {entry['bytes']} were written, or the contents differ). "
                f"Delete {path} to use an earlier checkpoint."
            )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
