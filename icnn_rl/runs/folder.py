"""Folders that one process uses at a time, and that are written whole or not at all. For single files see
:mod:`icnn_rl.atomic_io`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from icnn_rl.atomic_io import sync, write_file, write_text
from icnn_rl.runs.errors import UserError

__all__ = [
    "FolderBusyError",
    "check_free",
    "claim_folder",
    "name_of",
    "read_manifest",
    "sole_user",
    "write_file",
    "write_folder",
    "write_text",
]

MANIFEST = "manifest.json"
_LOCK = ".lock"


class FolderBusyError(UserError):
    """Another process is using a folder."""


def name_of(env_id: str) -> str:
    """An environment's id as part of a file name on any system: my_module:Task-v0 becomes my_module_Task-v0."""
    return re.sub(r"[^\w.-]", "_", env_id)


def claim_folder(wanted: Path) -> Path:
    """Make a new folder of that name, with a number if it is taken; no two processes get the same."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def check_free(folder: Path) -> None:
    """Check that ``folder`` is free for a run.

    Raises:
        UserError: it holds something, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file. Choose another name for the run folder.")
    # hidden files are leftovers of interrupted writes
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        further = f", or go on with its run: --resume {folder}" if (folder / "config.yml").is_file() else ""
        raise UserError(f"--out {folder}: not empty. Choose another folder{further}.")


@contextlib.contextmanager
def sole_user(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of the folder within the block; reentrant. The folder is made if missing, and removed
    afterwards if nothing was put into it.

    Args:
        folder: of a run.
        patience: seconds to wait for another process to leave.

    Raises:
        FolderBusyError: it did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise FolderBusyError(f"{folder}: another process is at work in it. Wait for it, or stop it.") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1 and [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()
        lock.release()


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; on exit a manifest of sizes and checksums is added, and the folder is renamed to
    ``path`` in one step."""
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
    """Check a folder against the manifest that :func:`write_folder` wrote.

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
