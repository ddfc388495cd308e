"""What a metric's name says: which direction is better, and how its values are shown.

Names are slash-separated and stable (`val/fast/accuracy`, `continual/bwt`); the last part is the
kind, by which metrics that are not listed here are known too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from neuro.errors import ConfigError, nearest

Direction = Literal["max", "min"]

#: words of kinds of which less is better, and those of kinds of which more is
_LESS = (
    "loss", "error", "mae", "mse", "rmse", "perplexity", "forgetting", "energy", "latency", "cores",
    "seconds", "memory", "power",
)  # fmt: skip
_MORE = ("accuracy", "acc", "bwt", "fwt")

#: kinds that are fractions, 0 to 1 (backward and forward transfer: -1 to 1)
_FRACTIONS = ("accuracy", "acc", "bwt", "fwt", "forgetting")


def kind(metric: str) -> str:
    """The last part of a metric's name."""
    return metric.rpartition("/")[2]


def is_fraction(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    name = kind(metric)
    return name in _FRACTIONS or name.endswith(("_accuracy", "_fraction", "_share"))


def direction_of(metric: str, config: Mapping[str, Any]) -> Direction | None:
    """Whether more or less of a metric is better; None if nothing says so.

    A run says it of its monitored metric (`trainer.direction`), and so of metrics of the same kind.
    """
    trainer = config.get("trainer") or {}
    monitor, given = trainer.get("monitor"), trainer.get("direction")
    if isinstance(monitor, str) and kind(monitor) == kind(metric) and given in ("max", "min"):
        return "max" if given == "max" else "min"
    words = kind(metric).split("_")
    if any(word in _MORE for word in words):
        return "max"
    return "min" if any(word in _LESS for word in words) else None


def parse_direction(text: str, option: str) -> tuple[str, Direction | None]:
    """`test/loss:min` as its parts; the direction is None where it is not given.

    ConfigError names the command line's option.
    """
    name, colon, direction = text.partition(":")
    if not colon:
        return name, None
    if direction not in ("max", "min"):
        raise ConfigError(f"{option} {text}: after the colon comes max or min, got '{direction}'.")
    return name, "max" if direction == "max" else "min"


def check_known(name: str, known: Iterable[str], option: str) -> None:
    """ConfigError if no run has a metric; says which there are."""
    names = sorted(known)
    if name not in names:
        raise ConfigError(
            f"{option} {name}: no run has this metric. Metrics: {', '.join(names) or 'none'}."
            + nearest(name, names)
        )


def headings(metrics: Iterable[str]) -> dict[str, str]:
    """Column headings: kinds where the split is `test` or `continual`, whole names elsewhere."""
    short = {m: m.removeprefix("test/").removeprefix("continual/") for m in metrics}
    short = {m: name.removesuffix("/accuracy") for m, name in short.items()}
    taken = list(short.values())
    return {m: name if taken.count(name) == 1 else m for m, name in short.items()}


def number(value: float) -> str:
    """A number with three significant digits, without an exponent where it is readable."""
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e9 else text
