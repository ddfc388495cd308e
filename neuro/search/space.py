"""What is searched: ranges by key, some of them only where others have certain values.

Ranges are written in Hydra's grammar and parsed by hydra-optuna-sweeper. A conditional parameter is
proposed, stored and composed only in trials whose other parameters ask for it, so that a sampler
does not learn from values that had no effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    DiscreteUniformDistribution,
    IntUniformDistribution,
    distribution_to_json,
)
from optuna.trial import Trial

from neuro.errors import ConfigError, nearest

Values = dict[str, Any]
Ranges = dict[str, BaseDistribution]

_EXAMPLE = "Give it ranges, e.g. 'optimizer.lr=tag(log, interval(0.001, 0.1))'"


@dataclass(frozen=True)
class Condition:
    """Ranges that are searched where each parameter of `when` has one of its values."""

    when: Mapping[str, tuple[str, ...]]
    ranges: Ranges

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial with these values has the parameters."""
        return all(
            name in values and str(values[name]) in wanted for name, wanted in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """The searched ranges, those under a condition, and the overrides of all trials by key."""

    ranges: Ranges
    conditions: tuple[Condition, ...]
    fixed: Mapping[str, str]

    def suggest(self, trial: Trial) -> Values:
        """A trial's values as its sampler proposes them; conditions in their order."""
        values = {name: trial._suggest(name, found) for name, found in self.ranges.items()}
        for condition in self.conditions:
            if condition.holds(values):
                values |= {n: trial._suggest(n, found) for n, found in condition.ranges.items()}
        return values

    def examples(self) -> Iterator[Values]:
        """Values in which every choice, both ends of every range and every condition occur."""
        yield from _covering(self.ranges)
        for condition in self.conditions:
            for values in _covering(condition.ranges):
                start = {name: ends(found)[0] for name, found in self.ranges.items()}
                yield self._with(start, condition) | values

    def _with(self, values: Values, condition: Condition) -> Values:
        """Values under which a condition holds, and those on which it depends in turn."""
        for name, wanted in condition.when.items():
            for other in self.conditions:
                if name in other.ranges:
                    first = {n: ends(found)[0] for n, found in other.ranges.items()}
                    values = self._with(values, other) | first
            values = {**values, name: wanted[0]}
        return values

    def grid(self) -> list[Values]:
        """All combinations. ConfigError if a range has no steps."""
        found = _product(self.ranges)
        for condition in self.conditions:
            more = _product(condition.ranges)
            found = [
                values | added
                for values in found
                for added in (more if condition.holds(values) else [{}])
            ]
        return found

    def stored(self) -> dict[str, str]:
        """The space as a study keeps it: each parameter's range and condition as text."""
        stored = {name: distribution_to_json(found) for name, found in self.ranges.items()}
        for condition in self.conditions:
            when = ", ".join(f"{k}={'|'.join(v)}" for k, v in condition.when.items())
            for name, found in condition.ranges.items():
                stored[name] = f"{distribution_to_json(found)} when {when}"
        return stored


def parse_space(
    params: Mapping[str, Any] | None,
    conditional: Sequence[Mapping[str, Any]] | None,
    arguments: Sequence[str],
) -> Space:
    """The space of `hydra.sweeper.params` and `.conditional`, as changed on the command line.

    A parameter that the command line fixes is not searched. ConfigError names the range that is
    none, and the condition that can never hold.
    """
    written = [f"{name}={value}" for name, value in (params or {}).items()]
    ranges, fixed = _parse([*written, *arguments], "hydra.sweeper.params")
    ranges = {name: found for name, found in ranges.items() if name not in fixed}
    conditions: list[Condition] = []
    for i, entry in enumerate(conditional or ()):
        key = f"hydra.sweeper.conditional[{i}]"
        condition = _condition(entry, key, fixed)
        known = {**ranges, **{n: d for c in conditions for n, d in c.ranges.items()}}
        if again := [name for name in condition.ranges if name in known]:
            raise ConfigError(
                f"{key}.params.{again[0]}: is searched already; a parameter stands in one place. "
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
            f"hydra.sweeper.params: nothing to search. {_EXAMPLE}, or choose a sweep: sweep=ltgate."
        )
    return Space(ranges, tuple(conditions), fixed)


def _parse(overrides: Sequence[str], key: str) -> tuple[Ranges, dict[str, str]]:
    """Ranges, and the overrides that are none; of several for one key the last counts."""
    ranges: Ranges = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        try:
            found, value = create_params_from_overrides([override])
        except (HydraException, ValueError, AssertionError, NotImplementedError) as error:
            name, _, text = override.partition("=")
            reason = " ".join(str(error).split()).rstrip(".") or "that cannot be searched"
            raise ConfigError(f"{key}.{name}: got '{text}'; {reason}. {_EXAMPLE}.") from error
        for name in (*found, *value):
            ranges.pop(name, None)
            fixed.pop(name, None)
        ranges |= found
        fixed |= dict.fromkeys(value, override)
    return ranges, fixed


def _condition(entry: Mapping[str, Any], key: str, fixed: Mapping[str, str]) -> Condition:
    """One entry of `hydra.sweeper.conditional`, without parameters that are fixed."""
    if (
        set(entry) != {"when", "params"}
        or not all(isinstance(value, Mapping) for value in entry.values())
        or not entry["when"]
    ):
        raise ConfigError(
            f"{key}: takes the keys when and params: "
            "{when: {objective.pooling: ewa}, params: {optimizer.lr: 'interval(0.001, 0.01)'}}."
        )
    when = {
        name: tuple(map(str, [value] if isinstance(value, str | int | float) else value))
        for name, value in entry["when"].items()
    }
    written = [f"{name}={value}" for name, value in entry["params"].items()]
    ranges, constants = _parse(written, f"{key}.params")
    if constants or not ranges:
        name = next(iter(constants), None)
        raise ConfigError(f"{key}.params{f'.{name}' if name else ''}: is no range. {_EXAMPLE}.")
    return Condition(when, {name: found for name, found in ranges.items() if name not in fixed})


def _check_condition(
    condition: Condition, key: str, known: Ranges, fixed: Mapping[str, str]
) -> None:
    """ConfigError if a condition names what is not searched or a value that is not among it."""
    for name, wanted in condition.when.items():
        if name in fixed:
            continue
        if name not in known:
            raise ConfigError(
                f"{key}.when.{name}: is not searched before it. Allowed: {', '.join(known)}."
                f"{nearest(name, known)}"
            )
        found = known[name]
        choices = [str(value) for value in getattr(found, "choices", ())]
        if not choices:
            raise ConfigError(f"{key}.when.{name}: a condition needs choice(...), not a range.")
        for value in wanted:
            if value not in choices:
                raise ConfigError(
                    f"{key}.when.{name}: got {value}; searched are {', '.join(choices)}."
                    f"{nearest(value, choices)}"
                )


def ends(found: BaseDistribution) -> tuple[Any, ...]:
    """All choices, or both ends of a range."""
    if isinstance(found, CategoricalDistribution):
        return tuple(found.choices)
    low, high = found.low, found.high  # type: ignore[attr-defined]
    return (low,) if low == high else (low, high)


def changes(stored: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """What two stored spaces differ in, by key."""
    parts = [f"{k} is new{nearest(k, stored)}" for k in wanted if k not in stored]
    parts += [f"{k} is missing" for k in stored if k not in wanted]
    parts += [f"{k} has another range" for k in wanted if k in stored and stored[k] != wanted[k]]
    return ", ".join(parts)


def _covering(ranges: Ranges) -> Iterator[Values]:
    """As few combinations as show every end of every range."""
    listed = {name: ends(found) for name, found in ranges.items()}
    for i in range(max(map(len, listed.values()), default=0)):
        yield {name: values[i % len(values)] for name, values in listed.items()}


def _product(ranges: Ranges) -> list[Values]:
    listed = [[(name, value) for value in _steps(name, found)] for name, found in ranges.items()]
    return [dict(values) for values in itertools.product(*listed)]


def _steps(name: str, found: BaseDistribution) -> Sequence[Any]:
    """The values of a parameter on a grid."""
    if isinstance(found, CategoricalDistribution):
        return found.choices
    if isinstance(found, IntUniformDistribution):
        return range(found.low, found.high + 1, found.step)
    if isinstance(found, DiscreteUniformDistribution):
        steps = round((found.high - found.low) / found.q)  # optuna moves the end to the last step
        return [round(found.low + i * found.q, 12) for i in range(steps + 1)]
    raise ConfigError(
        f"hydra/sweeper/sampler=grid: {name} is continuous. Give its values, as in "
        f"{name}=choice(0.001,0.01), or steps: {name}=range(0.0,1.0,0.25)."
    )
