"""mode=check: what a config would do, without doing it."""

from __future__ import annotations


def show(config, parts): ...
