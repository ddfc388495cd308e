"""Atomic writing of files."""

from __future__ import annotations

import errno
import json
import math
import os

import pytest
import torch

from neuro.errors import StorageError
from neuro.io import checkpoint, tensor_file
from neuro.io.files import finite, hard_link, overwrite_json, replacing, write_json, write_text


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with replacing(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("torn")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "one")
        checkpoint.save(tmp_path / "a.safetensors", {"w": torch.ones(2)})
        with replacing(tmp_path / "private") as temporary:
            temporary.touch(0o600)
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {
        "text": mode,
        "a.safetensors": mode,
        "private": mode,
    }


def test_a_link_replaces_what_was_there(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    hard_link(one, two)
    assert two.read_text() == "1"
    hard_link(one, two)  # the same file already
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_json_has_no_bare_nan(tmp_path):
    path = tmp_path / "a.json"
    value = {"x": math.nan, "y": [1, math.inf, {"z": (-math.inf, 2.5)}], "t": "NaN", "n": None}
    write_json(path, value)
    assert json.loads(path.read_text()) == {
        "x": None,
        "y": [1, None, {"z": [None, 2.5]}],
        "t": "NaN",
        "n": None,
    }
    assert math.isnan(value["x"])  # the caller's value is as it was
    assert finite(True) is True


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_files_are_copied(tmp_path, monkeypatch, number):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "last.safetensors"
    for value in (1, 2, 3):
        checkpoint.save(path, value)
        checkpoint.keep_copy(path, value, keep=2)
    assert checkpoint.load(path) == 3
    assert checkpoint.load(checkpoint.previous(path)) == 2
    assert [checkpoint.load(p) for p in sorted(tmp_path.glob("step-*"))] == [2, 3]
    assert len(list(tmp_path.iterdir())) == 4
    hard_link(path, path)  # the same file


def test_a_copy_that_fails_leaves_the_target_as_it_was(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no")))
    monkeypatch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StorageError):
        hard_link(one, two)
    assert two.read_text() == "2" and {p.name for p in tmp_path.iterdir()} == {"one", "two"}


@pytest.mark.parametrize("stage", ["touch", "write", "sync"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_is_missing(
    tmp_path, monkeypatch, stage
):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, 1)
    checkpoint.save(path, 2)

    def full(*_, **__):
        if stage == "write":
            raise tensor_file.SafetensorError("I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"touch": "pathlib.Path.touch", "sync": "os.fsync"}
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
        if stage == "write":
            patched.setattr(tensor_file, "save_file", full)
        else:
            patched.setattr(target[stage], full)
        with pytest.raises(
            StorageError,
            match=r"last\.safetensors cannot be written: the disk /.* is full: 4\.0 MB are needed "
            r"and 1\.0 MB are free, so 3\.0 MB are missing\.",
        ):
            checkpoint.save(path, torch.zeros(1_000_000))
    assert checkpoint.load(path) == 2
    assert checkpoint.load(checkpoint.previous(path)) in (1, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_json_in_place_takes_no_more_of_the_disk(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"status": "running", "long": "x" * 100})
    assert overwrite_json(path, {"status": "interrupted"})
    assert json.loads(path.read_text()) == {"status": "interrupted"}
    assert not overwrite_json(path, {"text": "x" * 100_000})
    assert json.loads(path.read_text()) == {"status": "interrupted"}
