"""Limits on the metrics of a study's trials.

A trial within all of them is feasible. Samplers prefer feasible trials, and only those can be the
best (constrained optimisation; for TPE see Watanabe & Hutter 2022, arXiv:2211.14411).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from neuro.errors import ConfigError

_FORM = re.compile(
    r"\s*(\S+?)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", re.IGNORECASE
)


class Constraint(NamedTuple):
    """`metric <= limit` or `metric >= limit`."""

    metric: str
    relation: Literal["<=", ">="]
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.limit:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far the metric is beyond the limit; at most 0 where it is not."""
        excess = metrics[self.metric] - self.limit
        return excess if self.relation == "<=" else -excess


def parse_constraints(texts: Sequence[str]) -> tuple[Constraint, ...]:
    """Parse `hydra.sweeper.constraints`. ConfigError for another form."""
    found = []
    for i, text in enumerate(texts):
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise ConfigError(
                f"hydra.sweeper.constraints[{i}]: got '{text}'. Give a metric, <= or >=, and a "
                "number, e.g. 'hardware/cores <= 128'."
            )
        found.append(Constraint(parts[1], "<=" if parts[2] == "<=" else ">=", float(parts[3])))
    return tuple(found)
