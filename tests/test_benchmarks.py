"""Benchmarks are not run here; their list and what they replace must exist."""

from __future__ import annotations

import importlib
from pathlib import Path

from benchmarks import step
from benchmarks.__main__ import BENCHMARKS


def test_every_benchmark_is_listed() -> None:
    files = {path.stem for path in Path(step.__file__).parent.glob("[a-z]*.py")} - {"harness"}
    assert set(BENCHMARKS) == files
    for name in BENCHMARKS:
        assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_a_step_by_frame_replaces_what_is_fused() -> None:
    ran = []
    step._unfused(lambda: ran.append(True))()
    assert ran == [True]
