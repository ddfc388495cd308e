"""Each key of a sampler's config has an effect on the values that it proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from neuro.search.samplers import make_sampler
from tests.search.test_study import sampler

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

Point = tuple[float, ...]


def proposed(
    name: str,
    *options: str,
    stored: Sequence[tuple[Point, float | Sequence[float]]] = (),
    count: int = 8,
    score: Callable[[Point], Any] | None = None,
    objectives: int = 1,
    width: int = 2,
) -> list[Point]:
    """Values in the unit cube that a sampler proposes.

    - `stored`: finished trials, points with their objectives, which are maximised
    - `score`: objective of a proposed point; None leaves its trial running
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    overrides = [f"hydra/sweeper/sampler={name}"]
    overrides += [f"hydra.sweeper.sampler.{option}" for option in options]
    study = optuna.create_study(
        sampler=make_sampler(sampler(*overrides), 0), directions=["maximize"] * objectives
    )
    ranges = {f"x{i}": optuna.distributions.FloatDistribution(0, 1) for i in range(width)}
    for point, values in stored:
        listed = list(values) if isinstance(values, Sequence) else [values]
        study.add_trial(
            optuna.create_trial(
                params=dict(zip(ranges, point, strict=True)), distributions=ranges, values=listed
            )
        )
    points = []
    for _ in range(count):
        trial = study.ask()
        points.append(tuple(trial.suggest_float(x, 0, 1) for x in ranges))
        if score is not None:
            study.tell(trial, score(points[-1]))
    return points


def scattered(number: int, value: Callable[[Point], Any]) -> list[tuple[Point, Any]]:
    """Finished trials at random points of a square."""
    points = np.random.default_rng(0).random((number, 2)).tolist()
    return [(tuple(point), value(tuple(point))) for point in points]


def spread(points: Sequence[Point]) -> float:
    return float(np.std(points, axis=0).mean())


def off_diagonal(points: Sequence[Point]) -> float:
    return float(np.mean([abs(x - y) for x, y in points]))


def diagonal(point: Point) -> float:
    return -abs(point[0] - point[1])


def zero(point: Point) -> float:
    return 0.0


def test_multivariate_tpe_models_correlated_values() -> None:
    """Good trials lie on a diagonal; univariate proposals match only near one point of it."""
    stored = scattered(300, diagonal)
    alone, together = (
        proposed("tpe", f"multivariate={on}", stored=stored, score=diagonal, count=30)
        for on in ("false", "true")
    )
    assert off_diagonal(together) < 0.1
    assert spread(together) > 3 * spread(alone)


def test_group_models_parameters_of_a_conditional_space_jointly() -> None:
    """Without it, parameters of only some trials are sampled independently."""

    def conditional(trial: optuna.Trial) -> Point:
        trial.suggest_categorical("kind", ["plain", "pair"])
        # also for the kind "plain", so that each proposal has a point
        return trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)

    found = []
    for option in ("group=false", "group=true"):
        made = make_sampler(
            sampler("hydra.sweeper.sampler.multivariate=true", f"hydra.sweeper.sampler.{option}"), 0
        )
        study = optuna.create_study(sampler=made, direction="maximize")
        ranges = {n: optuna.distributions.FloatDistribution(0, 1) for n in "xy"}
        kind = {"kind": optuna.distributions.CategoricalDistribution(["plain", "pair"])}
        for (x, y), value in scattered(300, diagonal):
            study.add_trial(
                optuna.create_trial(
                    params={"kind": "pair", "x": x, "y": y},
                    distributions=kind | ranges,
                    value=value,
                )
            )
        plain = optuna.create_trial(params={"kind": "plain"}, distributions=kind, value=-1.0)
        study.add_trials([plain] * 5)
        points = []
        for _ in range(30):
            trial = study.ask()
            points.append(conditional(trial))
            study.tell(trial, diagonal(points[-1]))
        found.append(points)
    alone, grouped = found
    assert off_diagonal(grouped) < 0.5 * off_diagonal(alone)


def test_the_constant_liar_separates_running_trials() -> None:
    stored = scattered(40, lambda p: -abs(p[0] - 0.5) - abs(p[1] - 0.5))
    near, apart = (
        spread(proposed("tpe", f"constant_liar={on}", stored=stored, count=25))
        for on in ("false", "true")
    )
    assert apart > 1.2 * near


def test_startup_trials_are_random() -> None:
    stored = scattered(12, lambda p: p[0])
    free = proposed("tpe", stored=stored)
    assert free == proposed("tpe", "n_startup_trials=12", stored=stored)
    assert free != proposed("tpe", "n_startup_trials=13", stored=stored)


def test_a_gaussian_process_finds_the_best_of_a_smooth_function() -> None:
    def smooth(point: Point) -> float:
        return -((point[0] - 0.3) ** 2) - (point[1] - 0.7) ** 2

    stored = scattered(12, smooth)
    best = proposed("gp", stored=stored, score=smooth, count=6)[-1]
    assert abs(best[0] - 0.3) < 0.1 and abs(best[1] - 0.7) < 0.1
    late = proposed("gp", "n_startup_trials=20", stored=stored, score=smooth, count=3)
    assert late != proposed("gp", stored=stored, score=smooth, count=3)


def test_noise_is_modelled_unless_results_are_deterministic() -> None:
    stored = scattered(12, lambda p: p[0] + 0.5 * np.sin(60 * p[1]))
    noisy, exact = (
        proposed("gp", f"deterministic_objective={on}", stored=stored, count=1)
        for on in ("false", "true")
    )
    assert noisy != exact


def test_quasi_random_points_are_even() -> None:
    points = np.array(proposed("qmc", score=zero, count=17))[1:]  # the first is drawn at random
    for column in points.T:
        assert len({int(8 * x) for x in column}) == 8
    halton = proposed("qmc", "qmc_type=halton", score=zero)
    scrambled = proposed("qmc", "scramble=true", score=zero)
    other = proposed("qmc", "scramble=true", "seed=1", score=zero)
    assert len({*halton[1:], *scrambled[1:], *other[1:]}) == 21


def test_the_step_of_cma_es() -> None:
    near, far = (
        spread(proposed("cmaes", f"sigma0={sigma}", score=zero, count=20)[1:])
        for sigma in (0.02, 0.3)
    )
    assert near < 0.1 < far
    first = proposed("cmaes", score=zero, count=6)
    assert first[:5] == proposed("random", score=zero, count=5)[:1] + first[1:5]
    assert first != proposed("cmaes", "n_startup_trials=4", score=zero, count=6)


@pytest.mark.parametrize("name, objectives", [("nsgaii", 2), ("nsgaiii", 3)])
def test_generations(name: str, objectives: int) -> None:
    """The first generation is random; children combine or resample values of parents."""

    def score(point: Point) -> list[float]:
        return [point[0], point[1], point[0] - point[1]][:objectives]

    def run(*options: str) -> list[Point]:
        size = "population_size=6"
        return proposed(name, size, *options, score=score, count=12, objectives=objectives)

    copied = run("mutation_prob=0.0", "crossover_prob=0.0")
    assert set(copied[6:]) <= set(copied[:6])
    redrawn = run("mutation_prob=1.0")
    assert not set(redrawn[6:]) & set(redrawn[:6])
    assert redrawn[:6] == copied[:6]
    swapped, kept = (
        run("mutation_prob=0.0", "crossover_prob=1.0", f"swapping_prob={p}") for p in (0.5, 0.0)
    )
    assert swapped[6:] != kept[6:]
    large = proposed(name, "population_size=12", score=score, count=12, objectives=objectives)
    assert len(set(large)) == 12
