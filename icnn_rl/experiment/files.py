"""Files that are written whole or not at all, and folders that can tell whether they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from icnn_rl.experiment.errors import UserError

__all__ = ["read_manifest", "write_file", "write_folder", "write_text"]

MANIFEST = "manifest.json"


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_file` for text."""
    write_file(path, lambda temporary: temporary.write_text(text))


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
            _sync(file)
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


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
