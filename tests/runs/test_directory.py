"""The status in run_meta.json is correct, also on a full disk."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from neuro.errors import StorageError
from neuro.runs import directory
from neuro.runs.directory import keeping_status


@pytest.mark.parametrize(
    "error",
    [
        StorageError("x cannot be written: the disk / is full (0.0 MB free)."),
        OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"),
    ],
)
def test_a_run_on_a_full_disk_ends_with_the_correct_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise StorageError("run_meta.json cannot be written")

    with (
        pytest.raises(StorageError, match=r"is full.*checkpoint is valid.*Continue") as caught,
        keeping_status(tmp_path, {"a": 1}, {"status": "running", "mode": "train"}),
    ):
        monkeypatch.setattr(directory, "write_json", full)
        raise error
    assert caught.value.exit_code == 130
    meta = json.loads((tmp_path / "run_meta.json").read_text())
    assert meta["status"] == "failed" and meta["error"]
