"""Where files are looked for; nothing is fetched from outside."""

from __future__ import annotations

import hashlib

import pytest

from icnn_rl.supervised.training.data_files import Source, cache_folder, find_file


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A data folder, a cache and a "web" that holds x.bin."""
    for name in ("data", "cache", "web"):
        (tmp_path / name).mkdir()
    (tmp_path / "web" / "x.bin").write_bytes(b"content")
    monkeypatch.setenv("ICNN_RL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def source(folders, content=b"content"):
    return Source((folders / "web" / "x.bin").as_uri(), hashlib.sha256(content).hexdigest())


def test_given_file_or_folder(folders):
    for path in (folders / "web" / "x.bin", folders / "web"):
        assert find_file("sub/x.bin", path) == folders / "web" / "x.bin"
    (folders / "data" / "boards.npz").touch()
    assert find_file("boards.npz", "boards.npz") == folders / "data" / "boards.npz"
    with pytest.raises(FileNotFoundError, match=r"data: no such file, and no folder that holds x.bin"):
        find_file("x.bin", folders / "data")


def test_the_environments_folder_comes_before_the_source(folders):
    (folders / "data" / "x.bin").write_bytes(b"own")
    assert find_file("x.bin", source=source(folders)).read_bytes() == b"own"


def test_fetched_once_and_kept(folders):
    path = find_file("sub/x.bin", source=source(folders))
    assert path == cache_folder() / "sub" / "x.bin"
    assert path.read_bytes() == b"content"
    (folders / "web" / "x.bin").unlink()
    assert find_file("sub/x.bin", source=source(folders)) == path


def test_another_checksum_is_refused(folders):
    with pytest.raises(ValueError, match=r"x.bin: what came from file://.*x.bin has another checksum"):
        find_file("x.bin", source=source(folders, b"other"))
    assert not [file for file in cache_folder().rglob("*") if file.is_file()]


def test_nowhere(folders):
    with pytest.raises(FileNotFoundError, match=r"y.bin: not in .*data and .*icnn_rl. Name the file, or a folder"):
        find_file("y.bin")
    (folders / "web" / "x.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"x.bin: cannot be fetched from file://"):
        find_file("x.bin", source=source(folders))
