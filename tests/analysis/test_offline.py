"""`python -m neuro wandb` lists W&B's offline runs as `wandb sync` would upload them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from neuro.__main__ import main

#: output of the real `wandb sync` before an upload
WOULD_SYNC = "Would sync {} run(s)"


def make_run(root: Path, name: str, files: int, synced: int = 0, status: str = "completed") -> Path:
    """A run with offline files of W&B, the oldest of them uploaded."""
    run = root / name
    run.mkdir(parents=True)
    (run / "run_meta.json").write_text(json.dumps({"name": "lif", "status": status}))
    (run / "config.yaml").write_text("seed: 0\n")
    for k in range(files):
        folder = run / "wandb" / f"offline-run-20261121_12000{k}-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name}.wandb").touch()
        if k < synced:
            (folder / f"run-{name}.wandb.synced").touch()
    return run


def dry_run(*folders: str) -> str:
    """The files that the real `wandb sync` selects for upload, without network or login."""
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", "--verbose", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_runs_are_listed_with_the_command_that_uploads_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("outputs"), "once", 1)
    make_run(Path("outputs"), "resumed", 3, synced=1, status="interrupted")
    make_run(Path("outputs"), "done", 2, synced=2)
    make_run(Path("outputs"), "without", 0)
    assert main(["wandb", "outputs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[-2].rpartition("/")[2]: line for line in lines if "outputs/" in line}
    assert cells.keys() >= {"once", "resumed", "done"} and "without" not in cells
    assert "waiting (2 of 3 files)" in cells["resumed"] and "interrupted" in cells["resumed"]
    assert "synced" in cells["done"] and "waiting" not in cells["done"]
    assert lines[-1] == "upload: wandb sync outputs/once/wandb outputs/resumed/wandb"
    told = dry_run(*lines[-1].split()[3:])
    assert WOULD_SYNC.format(3) in told and "Skipped 1 synced run(s)" in told
    first, second = (f"offline-run-20261121_12000{k}-resumed" for k in (1, 2))
    assert told.index(first) < told.index(second)


def test_many_runs_are_passed_by_a_pipe(tmp_path, capsys):
    for k in range(5):
        make_run(tmp_path, f"run {k}", 1, synced=k == 2)
    assert main(["wandb", str(tmp_path)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("upload: ")
    assert command == f"python -m neuro wandb {tmp_path} --folders | xargs wandb sync"
    main(["wandb", str(tmp_path), "--folders"])
    folders = capsys.readouterr().out
    assert folders.count("\n") == 4
    given = subprocess.run(["xargs", "-n1", "echo"], input=folders, capture_output=True, text=True)
    assert [Path(p) for p in given.stdout.splitlines()] == [
        tmp_path / f"run {k}" / "wandb" for k in (0, 1, 3, 4)
    ]


def test_nothing_to_upload_and_nothing_at_all(tmp_path, capsys):
    make_run(tmp_path, "done", 1, synced=1)
    assert main(["wandb", str(tmp_path)]) == 0
    assert "nothing waits for upload" in capsys.readouterr().out
    assert main(["wandb", str(tmp_path), "--folders"]) == 0
    assert capsys.readouterr().out == ""
    (tmp_path / "empty").mkdir()
    assert main(["wandb", str(tmp_path / "empty")]) == 2
    assert "holds no offline files of W&B" in capsys.readouterr().err
    assert main(["wandb", str(tmp_path / "nowhere")]) == 2
    assert "there is no such directory" in capsys.readouterr().err
