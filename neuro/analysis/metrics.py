"""Properties of metrics by name: the better direction, and the format of their values.

Names are slash-separated (`val/fast/accuracy`, `continual/bwt`). Their last part is the kind of
metric; everything here depends on the kind alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from neuro.errors import ConfigError, nearest

Direction = Literal["max", "min"]

#: words in the names of metrics to minimize, and of metrics to maximize
_MINIMIZE = {
    "loss",
    "error",
    "mae",
    "mse",
    "rmse",
    "perplexity",
    "bits",
    "forgetting",
    "energy",
    "latency",
    "cores",
    "seconds",
    "memory",
    "power",
    "epe",
    "band",
    "vertices",
    "gap",
    "recency",
}
_MAXIMIZE = {"accuracy", "acc", "top", "psnr", "bwt", "fwt"}

#: kinds with values from 0 to 1, or from -1 to 1 (differences, such as backward transfer, bwt)
_FRACTIONS = {
    *("accuracy", "acc", "learning_acc", "min_acc"),
    *("bwt", "fwt", "forgetting", "recency", "stability_gap"),
}
_TOP_K = re.compile(r"top_\d+")


def kind(metric: str) -> str:
    """The last part of a metric's name."""
    return metric.rpartition("/")[2]


def is_fraction(metric: str) -> bool:
    """Whether a metric is a fraction, which tables and plots show in percent.

    Files always hold the fraction itself.
    """
    name = kind(metric)
    return (
        name in _FRACTIONS
        or name.endswith(("_accuracy", "_fraction", "_share"))
        or _TOP_K.fullmatch(name) is not None
    )


def direction_of(metric: str, config: Mapping[str, object]) -> Direction | None:
    """Whether a metric is to be maximized or minimized; None if it is unknown.

    `trainer.direction` in a run's config decides for metrics of the same kind as
    `trainer.monitor`, the words in the name for all others.
    """
    trainer = config.get("trainer")
    if isinstance(trainer, Mapping):
        monitor, given = trainer.get("monitor"), trainer.get("direction")
        if isinstance(monitor, str) and kind(monitor) == kind(metric) and given in ("max", "min"):
            return "max" if given == "max" else "min"
    words = kind(metric).split("_")
    if not _MAXIMIZE.isdisjoint(words):
        return "max"
    return None if _MINIMIZE.isdisjoint(words) else "min"


def parse_direction(text: str, option: str) -> tuple[str, Direction | None]:
    """Split `test/loss:min` into metric and direction; the direction is None if it is not given.

    - `option`: the command line's option, for the error message

    ConfigError if the direction is neither max nor min.
    """
    name, colon, direction = text.partition(":")
    if not colon:
        return name, None
    if direction not in ("max", "min"):
        raise ConfigError(f"{option} {text}: allowed after the colon: max, min. Got '{direction}'.")
    return name, "max" if direction == "max" else "min"


def check_known(name: str, known: Iterable[str], option: str) -> None:
    """ConfigError with the known metrics if `name` is not among them."""
    names = sorted(known)
    if name not in names:
        raise ConfigError(
            f"{option} {name}: no run has this metric. Metrics: {', '.join(names) or 'none'}."
            + nearest(name, names)
        )


def headings(metrics: Iterable[str]) -> dict[str, str]:
    """Column headings: names without `test/` and `continual/`, unless two would be equal."""
    short = {m: m.removeprefix("test/").removeprefix("continual/") for m in metrics}
    short = {m: name.removesuffix("/accuracy") for m, name in short.items()}
    taken = list(short.values())
    return {m: name if taken.count(name) == 1 else m for m, name in short.items()}


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent from 1 to 1e9."""
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e9 else text
