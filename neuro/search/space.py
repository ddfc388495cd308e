"""The search space: ranges of parameters, some of them conditional on values of other parameters.

Ranges are written in the grammar of Hydra's sweeps (`ranges.py`). A conditional parameter is part
of a trial only if its condition holds. In other trials it has no effect, and its values there would
be noise for the sampler's model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.trial import Trial

from neuro.errors import ConfigError, nearest
from neuro.search.ranges import (
    Range,
    Value,
    as_text,
    choices,
    contains,
    ends,
    of_today,
    parse_override,
    steps,
    suggest,
)

#: values of a trial's parameters, by config key
Values = dict[str, Value]
Ranges = dict[str, Range]

_EXAMPLE = "Give a range, e.g. 'optimizer.lr=tag(log, interval(0.001, 0.1))'"


@dataclass(frozen=True)
class Condition:
    """Ranges that are searched if each parameter of `when` has one of the values given there."""

    when: Mapping[str, tuple[str, ...]]
    ranges: Ranges

    def holds(self, values: Mapping[str, object]) -> bool:
        """Whether a trial with these values has the conditional parameters."""
        return all(
            name in values and str(values[name]) in allowed for name, allowed in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """Unconditional ranges, conditional ones, and by key the overrides that all trials get."""

    ranges: Ranges
    conditions: tuple[Condition, ...]
    fixed: Mapping[str, str]

    def suggest(self, trial: Trial) -> Values:
        """The values that the trial's sampler proposes for all parameters whose condition holds."""
        values = {name: suggest(trial, name, range_) for name, range_ in self.ranges.items()}
        for condition in self.conditions:
            if condition.holds(values):
                values |= {n: suggest(trial, n, range_) for n, range_ in condition.ranges.items()}
        return values

    def covering_values(self) -> Iterator[Values]:
        """Few combinations that contain every choice, both ends of every range, every condition."""
        yield from _covering(self.ranges)
        for condition in self.conditions:
            for values in _covering(condition.ranges):
                first = {name: ends(range_)[0] for name, range_ in self.ranges.items()}
                yield self._fulfil(condition, first) | values

    def _fulfil(self, condition: Condition, values: Values) -> Values:
        """Change values such that a condition holds, and the conditions that it depends on."""
        for name, allowed in condition.when.items():
            for other in self.conditions:
                if name in other.ranges:
                    first = {n: ends(range_)[0] for n, range_ in other.ranges.items()}
                    values = self._fulfil(other, values) | first
            values = {**values, name: allowed[0]}
        return values

    def grid(self) -> list[Values]:
        """All combinations. ConfigError if a range is continuous."""
        combinations = _product(self.ranges)
        for condition in self.conditions:
            conditional = _product(condition.ranges)
            combinations = [
                values | added
                for values in combinations
                for added in (conditional if condition.holds(values) else [{}])
            ]
        return combinations

    def check(self, values: Mapping[str, object], key: str) -> None:
        """ConfigError with a config key if a value is not in its parameter's range."""
        ranges = {**self.ranges, **{n: r for c in self.conditions for n, r in c.ranges.items()}}
        for name, value in values.items():
            if name not in ranges:
                raise ConfigError(
                    f"{key}.{name}: not a parameter that is searched. Allowed: "
                    f"{', '.join(ranges)}.{nearest(name, ranges)}"
                )
            if not contains(ranges[name], value):
                listed = ", ".join(map(str, ends(ranges[name])))
                kind = "one of" if choices(ranges[name]) else "a number between"
                raise ConfigError(f"{key}.{name}: got {value}; allowed: {kind} {listed}.")

    def as_text(self) -> dict[str, str]:
        """Each parameter's range and condition as text, which a study stores and compares."""
        text = {name: as_text(range_) for name, range_ in self.ranges.items()}
        for condition in self.conditions:
            when = ", ".join(f"{k}={'|'.join(v)}" for k, v in condition.when.items())
            for name, range_ in condition.ranges.items():
                text[name] = f"{as_text(range_)} when {when}"
        return text


def parse_space(
    params: Mapping[str, object] | None,
    conditional: Sequence[Mapping[str, Any]] | None,
    arguments: Sequence[str],
    config: DictConfig | None = None,
) -> Space:
    """Parse the search space.

    - `params`, `conditional`: the keys of `hydra.sweeper`
    - `arguments`: overrides of the command line; they replace ranges of `params`, and a parameter
      that they set to a single value is not searched
    - `config`: the composed config; an interval between two integers has whole numbers, unless the
      config has a float there

    ConfigError for an invalid range, a condition that can never hold, and an empty space.
    """
    written = [f"{name}={value}" for name, value in (params or {}).items()]
    config = OmegaConf.create() if config is None else config
    ranges, fixed = _parse([*written, *arguments], "hydra.sweeper.params", config)
    ranges = {name: range_ for name, range_ in ranges.items() if name not in fixed}
    conditions: list[Condition] = []
    for i, entry in enumerate(conditional or ()):
        key = f"hydra.sweeper.conditional[{i}]"
        condition = _condition(entry, key, fixed, config)
        known = {**ranges, **{n: d for c in conditions for n, d in c.ranges.items()}}
        if again := [name for name in condition.ranges if name in known]:
            raise ConfigError(
                f"{key}.params.{again[0]}: is searched already; each parameter may occur once. "
                "For several values of one condition give a list: when: {key: [a, b]}."
            )
        if all(name in fixed for name in condition.when):
            if condition.holds({name: text.partition("=")[2] for name, text in fixed.items()}):
                ranges |= condition.ranges
            continue
        _check_condition(condition, key, known, fixed)
        conditions.append(condition)
    if not ranges:
        raise ConfigError(
            f"hydra.sweeper.params: no parameter to search. {_EXAMPLE}, or choose an option of the "
            "group sweep: sweep=ltgate."
        )
    return Space(ranges, tuple(conditions), fixed)


def _parse(overrides: Sequence[str], key: str, config: DictConfig) -> tuple[Ranges, dict[str, str]]:
    """Split overrides into ranges and fixed values; the last override of a key counts."""
    ranges: Ranges = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        name, _, text = override.partition("=")
        try:
            name, range_ = parse_override(override, config)
        except (HydraException, ValueError, TypeError) as error:
            reason = " ".join(str(error).split()).rstrip(".") or "this is not a range"
            raise ConfigError(f"{key}.{name}: got '{text}'; {reason}. {_EXAMPLE}.") from error
        ranges.pop(name, None)
        fixed.pop(name, None)
        if range_ is None:
            fixed[name] = override
        else:
            ranges[name] = range_
    return ranges, fixed


def _condition(
    entry: Mapping[str, Any], key: str, fixed: Mapping[str, str], config: DictConfig
) -> Condition:
    """Parse one entry of `hydra.sweeper.conditional`, without parameters that are fixed."""
    if (
        set(entry) != {"when", "params"}
        or not all(isinstance(value, Mapping) for value in entry.values())
        or not entry["when"]
    ):
        raise ConfigError(
            f"{key}: needs the keys when and params: "
            "{when: {objective.pooling: ewa}, params: {optimizer.lr: 'interval(0.001, 0.01)'}}."
        )
    when = {
        name: tuple(
            "null" if one is None else str(one)
            for one in (value if isinstance(value, list | tuple) else [value])
        )
        for name, value in entry["when"].items()
    }
    written = [f"{name}={value}" for name, value in entry["params"].items()]
    ranges, constants = _parse(written, f"{key}.params", config)
    if constants or not ranges:
        name = next(iter(constants), None)
        raise ConfigError(f"{key}.params{f'.{name}' if name else ''}: not a range. {_EXAMPLE}.")
    return Condition(when, {name: range_ for name, range_ in ranges.items() if name not in fixed})


def _check_condition(
    condition: Condition, key: str, known: Ranges, fixed: Mapping[str, str]
) -> None:
    """ConfigError if a condition's parameter is not searched or its value is not a choice."""
    for name, allowed in condition.when.items():
        if name in fixed:
            continue
        if name not in known:
            raise ConfigError(
                f"{key}.when.{name}: not a parameter that is searched before this condition. "
                f"Allowed: {', '.join(known)}.{nearest(name, known)}"
            )
        listed = [str(value) for value in choices(known[name])]
        if not listed:
            raise ConfigError(f"{key}.when.{name}: a condition needs choice(...), not a range.")
        for value in allowed:
            if value not in listed:
                raise ConfigError(
                    f"{key}.when.{name}: got {value}; allowed: {', '.join(listed)}."
                    f"{nearest(value, listed)}"
                )


def difference(stored: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The differences between two results of `Space.as_text`, in words; empty if there is none."""
    stored = {name: _of_today(text) for name, text in stored.items()}
    parts = [f"{k} is new{nearest(k, stored)}" for k in given if k not in stored]
    parts += [f"{k} is missing" for k in stored if k not in given]
    parts += [f"{k} has another range" for k in given if k in stored and stored[k] != given[k]]
    return ", ".join(parts)


def _of_today(text: str) -> str:
    range_, when, condition = text.partition(" when ")
    return f"{of_today(range_)}{when}{condition}"


def _covering(ranges: Ranges) -> Iterator[Values]:
    """The fewest combinations that contain every end of every range."""
    listed = {name: ends(range_) for name, range_ in ranges.items()}
    for i in range(max(map(len, listed.values()), default=0)):
        yield {name: values[i % len(values)] for name, values in listed.items()}


def _product(ranges: Ranges) -> list[Values]:
    listed = [[(name, value) for value in steps(name, range_)] for name, range_ in ranges.items()]
    return [dict(values) for values in itertools.product(*listed)]
