"""Where data files are: given, in a folder of one's own, or fetched from their public source; none in the package."""

from __future__ import annotations

import os
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch

from icnn_rl.atomic_io import write_file

__all__ = ["ENVIRONMENT", "Source", "cache_folder", "find_file"]

#: Environment variable that names a folder with data files.
ENVIRONMENT = "ICNN_RL_DATA"


@dataclass(frozen=True)
class Source:
    """A file on the web, and its SHA-256."""

    url: str
    sha256: str


def cache_folder() -> Path:
    """Where fetched files stay: ``icnn_rl`` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icnn_rl"


def find_file(name: str, given: str | Path | None = None, source: Source | None = None) -> Path:
    """The file ``name``, which may hold a folder's name too ("mnist/x.gz").

    Looked for, in this order: ``given``, the file itself or a folder that holds it; the folder that the environment
    variable ICNN_RL_DATA names; the cache; the public source, from which it is put into the cache, its checksum tested.

    Raises:
        FileNotFoundError: it is nowhere; says where it was looked for.
        ValueError: what was fetched has another checksum.
    """
    inner = Path(name)
    if given is not None:
        path = Path(given)
        found = path if path.is_file() else next((p for p in (path / inner, path / inner.name) if p.is_file()), None)
        if found is None and ENVIRONMENT in os.environ and not path.is_absolute():
            found = next((p for p in (Path(os.environ[ENVIRONMENT]) / path,) if p.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{path}: no such file, and no folder that holds {inner.name}.")
        return found
    folders = [Path(os.environ[ENVIRONMENT])] if os.environ.get(ENVIRONMENT) else []
    for folder in (*folders, cache_folder()):
        if (folder / inner).is_file():
            return folder / inner
    if source is None:
        looked = " and ".join(str(folder) for folder in (*folders, cache_folder()))
        raise FileNotFoundError(f"{name}: not in {looked}. Name the file, or a folder of data files in {ENVIRONMENT}.")
    return _fetch(cache_folder() / inner, source)


def _fetch(path: Path, source: Source) -> Path:
    def download(temporary: Path) -> None:
        torch.hub.download_url_to_file(source.url, str(temporary), hash_prefix=source.sha256, progress=False)

    try:
        write_file(path, download)
    except urllib.error.URLError as error:
        raise FileNotFoundError(
            f"{path.name}: cannot be fetched from {source.url} ({error}). Name a folder that holds it in {ENVIRONMENT}."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{path.name}: what came from {source.url} has another checksum ({error}).") from error
    return path
