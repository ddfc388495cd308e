"""Names of experiments, checked without pydantic: Hydra makes their folder before parsing."""

from __future__ import annotations

from pathlib import PurePath


def checked_name(name: str) -> str:
    """The name of an experiment. ValueError if it cannot be a folder under runs_dir."""
    parts = PurePath(name).parts
    if not parts or ".." in parts or PurePath(name).is_absolute() or not name.isprintable():
        raise ValueError(
            "expected a folder under runs_dir: printable characters, not absolute, without '..'"
        )
    if any(len(part.encode()) > 255 for part in parts):
        raise ValueError(
            "expected a folder under runs_dir; file systems take names of at most 255 bytes"
        )
    return name
