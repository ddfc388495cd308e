"""Lines of a metric over a number: a config key's value, or the number in the names of metrics."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Sequence
from itertools import pairwise

from neuro.analysis.compare import configs
from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.metrics import check_known
from neuro.analysis.plots.comparison import LinePoint
from neuro.errors import ConfigError, nearest

#: points of each line, by its label
Lines = dict[str, list[LinePoint]]


def over_key(comparison: Comparison, key: str, metric: str) -> Lines:
    """A metric over the values of a config key; one line for all that differ in this key alone.

    Keys that have its value in every configuration, such as interpolations of it, count as it.

    ConfigError if the configurations do not differ in the key, or have values that are no numbers.
    """
    known = comparison.differing
    if key not in known:
        every = {name for c in comparison.configurations for name in c.config}
        what = "the configurations do not differ in this key." if key in every else "no such key."
        raise ConfigError(
            f"--x {key}: {what}{nearest(key, known if key in every else every)} They differ in: "
            f"{', '.join(known) or 'nothing'}."
        )
    having = [c for c in comparison.configurations if key in c.config]
    values: list[float] = []
    for value in (c.config[key] for c in having):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"--x {key}: {configs.value_text(key, value)} is not a number.")
        values.append(value)
    same = {
        k for k in known if all(c.config.get(k) == v for c, v in zip(having, values, strict=True))
    }
    rest = [{k: v for k, v in c.config.items() if k not in same} for c in having]
    overrides = [
        [o for o in c.runs[0].record.overrides if configs.key_of(o) not in same] for c in having
    ]
    groups: dict[str, list[int]] = {}
    for i, config in enumerate(rest):
        groups.setdefault(configs.fingerprint(config), []).append(i)
    firsts = [members[0] for members in groups.values()]
    names = configs.labels([rest[i] for i in firsts], [overrides[i] for i in firsts])
    found: Lines = {}
    for name, members in zip(names, groups.values(), strict=True):
        intervals = ((values[i], having[i].interval(metric)) for i in members)
        found[name] = [LinePoint(x, y) for x, y in intervals if y is not None]
    return _sorted(found)


def over_names(comparison: Comparison, pattern: str) -> Lines:
    """Metrics whose names differ in a number, over this number; one line for each configuration.

    - `pattern`: names with `*` at the place of the number, as `test/recall_*/accuracy`

    ConfigError for a pattern without one `*`, or one that fits no metric with a number there.
    """
    if pattern.count("*") != 1:
        raise ConfigError(f"--x {pattern}: give one `*` at the place of the number in the names.")
    before, _, after = pattern.partition("*")
    names = {}
    for name in fnmatch.filter(comparison.metrics, pattern):
        between = name[len(before) : len(name) - len(after)]
        if re.fullmatch(r"-?\d+(\.\d+)?", between):
            names[name] = float(between)
    if not names:
        check_known(pattern, comparison.metrics, "--x")
    found: Lines = {}
    for configuration in comparison.configurations:
        intervals = ((number, configuration.interval(name)) for name, number in names.items())
        found[configuration.label] = [LinePoint(x, y) for x, y in intervals if y is not None]
    return _sorted(found)


def logarithmic(values: Sequence[float]) -> bool:
    """Whether numbers are better shown on a logarithmic axis: positive, and unevenly far apart."""
    known = sorted(set(values))
    if len(known) < 3 or known[0] <= 0:
        return False
    ratios = [math.log(b / a) for a, b in pairwise(known)]
    gaps = [b - a for a, b in pairwise(known)]
    return max(ratios) / min(ratios) < max(gaps) / min(gaps)


def _sorted(lines: Lines) -> Lines:
    """Lines with points, each sorted by x."""
    return {label: sorted(points) for label, points in lines.items() if points}
