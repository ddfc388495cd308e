"""Ranges of parameters: Hydra's grammar of sweeps as distributions of Optuna.

`choice` is categorical. `range` has steps and, unlike in Hydra's basic sweeper, contains its end.
`interval` is continuous, or of whole numbers if both ends are written as integers. The tag `log`
makes an interval logarithmic.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import Trial

from neuro.errors import ConfigError

Range: TypeAlias = CategoricalDistribution | FloatDistribution | IntDistribution
#: a value of a parameter; a string is text of Hydra's grammar, with quotes if it needs them
Value: TypeAlias = str | int | float | bool | None


def parse_override(override: str, config: DictConfig) -> tuple[str, Range | None]:
    """The key of an override and the range of its values; None instead of one for a single value.

    - `config`: the composed config. A key that has a float there has one in every trial:
      `interval(0,1)` of a momentum is not the choice of 0 and 1

    HydraException or ValueError if this is not an override or not a range.
    """
    try:
        parsed = _parser().parse_override(override)
    except HydraException as error:
        if "mismatch type" in str(error):
            raise ValueError("ends must be numbers, and choices cannot be null") from error
        raise
    name, value = parsed.get_key_element(), parsed.value()
    if not parsed.is_sweep_override():
        return name, None
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None:
            raise ValueError("an interval needs two ends")
        log = "log" in value.tags
        _check_ends(low, high, log=log)
        default = OmegaConf.select(config, name, throw_on_missing=False)
        if isinstance(low, int) and isinstance(high, int) and not isinstance(default, float):
            return name, IntDistribution(low, high, log=log)
        return name, FloatDistribution(low, high, log=log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        start, stop, step = value.start, value.stop, value.step
        if start is None or stop is None:
            raise ValueError("a range needs a start and an end")
        _check_ends(start, stop, step=step)
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return name, IntDistribution(start, stop, step=step)
        return name, FloatDistribution(start, stop, step=step)
    if not isinstance(value, ChoiceSweep | RangeSweep):
        raise ValueError("this is not a range")
    values: list[Any] = list(parsed.sweep_iterator(transformer=Transformer.encode))
    return name, CategoricalDistribution(values)


def _check_ends(low: float, high: float, *, log: bool = False, step: float = 1) -> None:
    """ValueError for numbers that are no range, in the words of the grammar instead of Optuna's."""
    if not all(abs(end) < 2**63 for end in (low, high)):  # nor is NaN
        raise ValueError("ends must be finite numbers of at most 63 bits")
    if low > high:
        raise ValueError(f"the first end ({low}) is above the second ({high})")
    if log and low <= 0:
        raise ValueError(f"a logarithmic interval must begin above 0, not at {low}")
    if step <= 0:
        raise ValueError(f"the step must be above 0, not {step}")


def _parser() -> OverridesParser:
    """Hydra's parser, but for `interval`, of which Hydra converts integers to floats."""
    functions = create_functions()
    functions.functions["interval"] = lambda start, end: IntervalSweep(start=start, end=end)
    return OverridesParser(functions)


def suggest(trial: Trial, name: str, range_: Range) -> Value:
    """The value that a trial's sampler proposes for a parameter."""
    if isinstance(range_, CategoricalDistribution):
        return trial.suggest_categorical(name, range_.choices)
    if isinstance(range_, IntDistribution):
        return trial.suggest_int(name, range_.low, range_.high, step=range_.step, log=range_.log)
    return trial.suggest_float(name, range_.low, range_.high, step=range_.step, log=range_.log)


def choices(range_: Range) -> tuple[Value, ...]:
    """All choices of a categorical range; empty for a numeric one."""
    return tuple(range_.choices) if isinstance(range_, CategoricalDistribution) else ()


def ends(range_: Range) -> tuple[Value, ...]:
    """All choices of a categorical range, or both ends of a numeric one."""
    if isinstance(range_, CategoricalDistribution):
        return tuple(range_.choices)
    return (range_.low,) if range_.low == range_.high else (range_.low, range_.high)


def contains(range_: Range, value: object) -> bool:
    """Whether a value is in a range."""
    if isinstance(range_, CategoricalDistribution):
        return value in range_.choices
    whole = not isinstance(range_, IntDistribution) or isinstance(value, int)
    return whole and isinstance(value, int | float) and range_.low <= value <= range_.high


def steps(name: str, range_: Range) -> Sequence[Value]:
    """The values of a parameter on a grid. ConfigError if its range is continuous."""
    if isinstance(range_, CategoricalDistribution):
        return range_.choices
    if isinstance(range_, IntDistribution) and not range_.log:
        return range(range_.low, range_.high + 1, range_.step)
    if isinstance(range_, FloatDistribution) and range_.step is not None:
        count = round((range_.high - range_.low) / range_.step)  # high is the last step in Optuna
        # rounded, so that equal values of two grids are equal as text too
        return [round(range_.low + i * range_.step, 12) for i in range(count + 1)]
    raise ConfigError(
        f"hydra/sweeper/sampler=grid: {name} is continuous. Give its values, as in "
        f"{name}=choice(0.001,0.01), or steps: {name}=range(0.0,1.0,0.25)."
    )


def as_text(range_: Range) -> str:
    """A range as text, which a study stores."""
    return distribution_to_json(range_)


def of_today(text: str) -> str:
    """The text of a range that a study has stored, also by Optuna 2, in today's form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # old classes, which are read once more
        range_ = json_to_distribution(text)
    if isinstance(range_, FloatDistribution):
        range_ = FloatDistribution(range_.low, range_.high, log=range_.log, step=range_.step)
    elif isinstance(range_, IntDistribution):
        range_ = IntDistribution(range_.low, range_.high, log=range_.log, step=range_.step)
    return distribution_to_json(range_)
