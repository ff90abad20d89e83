"""Files written whole or not at all."""

from __future__ import annotations

import json

import pytest

from icnn_rl.runs.errors import UserError
from icnn_rl.runs.folder import (
    MANIFEST,
    claim_folder,
    name_of,
    read_manifest,
    sole_user,
    write_file,
    write_folder,
    write_text,
)


@pytest.mark.parametrize(
    ("env", "name"),
    [("HalfCheetah-v5", "HalfCheetah-v5"), ("icnn_rl/A-v0", "icnn_rl_A-v0"), ("my.tasks:Ns/B-v1", "my.tasks_Ns_B-v1")],
)
def test_names_of_environments_make_file_names(env, name):
    assert name_of(env) == name


class _KilledError(Exception):
    pass


def _half_written(path):
    path.write_text("half")
    raise _KilledError


def test_a_file_is_written_with_its_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "table.csv"
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_the_writer_sees_the_files_own_ending(tmp_path):
    seen = []
    write_file(tmp_path / "model.zip", lambda path: (seen.append(path), path.write_text("x")))
    assert seen[0].suffix == ".zip"  # SB3 and imageio choose the format by it
    assert seen[0] != tmp_path / "model.zip"


def test_a_writer_that_fails_half_way_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "model.zip"
    write_text(path, "old")
    with pytest.raises(_KilledError):
        write_file(path, _half_written)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_the_first_time_leaves_nothing(tmp_path):
    with pytest.raises(_KilledError):
        write_file(tmp_path / "model.zip", _half_written)
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "model.zip"
    write_text(path, "old")

    def write(temporary):
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_file(path, write)
    assert path.read_text() == "new"


def _make_folder(path):
    with write_folder(path) as temporary:
        (temporary / "model.zip").write_bytes(b"0123456789")
        (temporary / "random.pkl").write_bytes(b"abc")


def test_a_folder_takes_its_name_only_when_whole(tmp_path):
    path = tmp_path / "step_1"
    with write_folder(path) as temporary:
        (temporary / "model.zip").write_bytes(b"0123456789")
        assert not path.exists()
        assert not temporary.name.startswith("step_")
    assert set(json.loads((path / MANIFEST).read_text())) == {"model.zip"}
    read_manifest(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_that_fails_half_way_leaves_what_was_there(tmp_path, existed):
    path = tmp_path / "step_1"
    if existed:
        _make_folder(path)
    with pytest.raises(_KilledError), write_folder(path) as temporary:
        _half_written(temporary / "model.zip")
    assert list(tmp_path.iterdir()) == ([path] if existed else [])
    if existed:
        read_manifest(path)


def test_a_folder_replaces_an_older_one(tmp_path):
    path = tmp_path / "step_1"
    _make_folder(path)
    with write_folder(path) as temporary:
        (temporary / "other").write_text("x")
    assert {entry.name for entry in path.iterdir()} == {"other", MANIFEST}
    read_manifest(path)


@pytest.mark.parametrize("length", [0, 1, 9])
def test_truncation_is_noticed(tmp_path, length):
    _make_folder(tmp_path / "c")
    (tmp_path / "c" / "model.zip").write_bytes(b"0123456789"[:length])
    with pytest.raises(UserError, match=rf"model.zip: damaged \({length} bytes, 10 were written.*Delete .*c "):
        read_manifest(tmp_path / "c")


def test_alteration_is_noticed(tmp_path):
    _make_folder(tmp_path / "c")
    (tmp_path / "c" / "model.zip").write_bytes(b"0123456780")
    with pytest.raises(UserError, match=r"model.zip: damaged"):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("name", ["model.zip", "random.pkl", MANIFEST])
def test_absence_is_noticed(tmp_path, name):
    _make_folder(tmp_path / "c")
    (tmp_path / "c" / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        read_manifest(tmp_path / "c")


def test_a_broken_manifest_is_noticed(tmp_path):
    _make_folder(tmp_path / "c")
    (tmp_path / "c" / MANIFEST).write_text('{"model.zip": {')
    with pytest.raises(UserError, match=r"manifest.json: missing or unreadable"):
        read_manifest(tmp_path / "c")


# folders for one process


def test_a_claimed_folder_is_new_and_numbered_when_taken(tmp_path):
    for name in ("a", "a-2", "a-3"):
        assert claim_folder(tmp_path / "runs" / "a") == tmp_path / "runs" / name
        assert not list((tmp_path / "runs" / name).iterdir())


def test_the_sole_user_of_a_folder_leaves_none_that_is_empty(tmp_path):
    with sole_user(tmp_path / "a"):
        with sole_user(tmp_path / "a"):  # its own caller's
            assert (tmp_path / "a").is_dir()
        assert (tmp_path / "a").is_dir()
    assert not (tmp_path / "a").exists()
    with sole_user(tmp_path / "b"):
        write_text(tmp_path / "b" / "config.yml", "whole")
    assert (tmp_path / "b" / "config.yml").is_file()
