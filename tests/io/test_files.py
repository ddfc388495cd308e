"""Atomic writing of files."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch

from neuro.io import checkpoint
from neuro.io.files import finite, hard_link, replacing, write_json, write_text


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
