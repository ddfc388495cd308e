"""`python -m neuro compare`: runs side by side, tested against a baseline."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro.errors import CheckpointError, ConfigError, nearest

if TYPE_CHECKING:
    from neuro.analysis.compare.comparison import Comparison
    from neuro.analysis.compare.groups import Group
    from neuro.analysis.compare.significance import Significance
    from neuro.runs.record import RunRecord

#: formats, and the suffixes of files that ask for them
FORMATS = {"terminal": ".txt", "csv": ".csv", "markdown": ".md", "latex": ".tex", "html": ".html"}
CORRECTIONS = ("holm", "benjamini-hochberg", "bonferroni", "none")


def register(commands: Any) -> None:
    """Add `compare`."""
    parser = commands.add_parser(
        "compare",
        help="a table of runs, grouped over seeds, with tests against a baseline",
        description="Runs with equal configs but for their seeds are one configuration. "
        "Directories are searched at any level: runs, sets of repeats, sweeps, or all of outputs.",
    )
    add = parser.add_argument
    add("directories", nargs="+", type=Path, help="runs, or directories with runs in them")
    add("--metrics", type=_list, help="columns, as in test/accuracy,continual/*")
    add("--sort", metavar="METRIC[:max|:min]", help="best first by this; default: the objective")
    add("--group-by", type=_list, metavar="KEYS", help="tell runs apart by these config keys alone")
    add("--baseline", help="test the others against it: a name, an override, or a directory")
    add("--test", type=_list, metavar="METRICS", help="what is tested; default: what is sorted by")
    add("--correction", choices=CORRECTIONS, help="of p values for many comparisons (holm)")
    add("--pareto", metavar="X,Y", help="the two metrics of the HTML report's Pareto plot")
    add("--format", choices=tuple(FORMATS), help="default: by the output's suffix, or terminal")
    add("--output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    """Print or write what the command line asks for."""
    from neuro.io.files import write_text

    form = asked.format or _format_of(asked.output)
    for option, needed in (("test", "baseline"), ("correction", "baseline")):
        if getattr(asked, option) is not None and getattr(asked, needed) is None:
            raise ConfigError(f"--{option}: is about tests; they need --{needed}.")
    if asked.pareto is not None and form != "html":
        raise ConfigError("--pareto: is drawn in the HTML report; give --format html.")
    comparison = _compare(find(asked.directories), asked.sort, asked.group_by, asked.directories)
    text = render(
        comparison,
        form,
        metrics=asked.metrics,
        baseline=asked.baseline,
        tested=asked.test,
        correction=asked.correction or "holm",
        pareto=asked.pareto,
        directories=asked.directories,
    )
    if asked.output is None:
        print(text)
        return
    try:
        write_text(asked.output, text + "\n")
    except OSError as error:
        raise ConfigError(f"--output {asked.output}: cannot be written ({error}).") from error
    print(f"{len(comparison.groups)} configurations compared: {asked.output}")


def show_comparison(directories: Sequence[Path], *, baseline: str | None = None) -> None:
    """Print the comparison of all finished runs below the directories.

    A baseline that is not among them (its runs may have failed) is told; the rest is still shown.
    ConfigError or CheckpointError if there is nothing to compare.
    """
    comparison = _compare(find(directories), None, None, directories)
    try:
        print(render(comparison, "terminal", baseline=baseline))
    except ConfigError as error:
        print(render(comparison, "terminal"))
        print(error)


def find(directories: Iterable[Path]) -> list[RunRecord]:
    """All runs at or below directories. ConfigError for each that is none or holds none."""
    from neuro.runs.record import find_runs

    found: list[RunRecord] = []
    problems = []
    for directory in directories:
        if directory.is_file():
            problems.append(f"{directory}: is a file. Give the directory of its run.")
        elif not directory.is_dir():
            siblings = [p.name for p in _folders(directory.parent)]
            problems.append(
                f"{directory}: there is no such directory.{nearest(directory.name, siblings)}"
            )
        elif runs := find_runs(directory):
            found += runs
        else:
            inside = ", ".join(p.name for p in _folders(directory)[:5]) or "no directories"
            problems.append(
                f"{directory}: no run at any level (none has run_meta.json and config.yaml). "
                f"In it: {inside}."
            )
    if problems:
        raise ConfigError(problems)
    return found


def render(
    comparison: Comparison,
    form: str,
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    tested: Sequence[str] | None = None,
    correction: Any = "holm",
    pareto: str | None = None,
    directories: Sequence[Path] = (),
) -> str:
    """A comparison in one of the `FORMATS`. ConfigError for what is not in it."""
    from neuro.analysis.compare import formats, tables
    from neuro.analysis.compare.significance import against_baseline

    columns = comparison.default_metrics()
    if metrics is not None:
        columns = tuple(_matching(comparison, metrics, "--metrics"))
    reference: Group | None = None
    significance: Significance | None = None
    if baseline is not None:
        reference = comparison.find(baseline)
        names = [comparison.objective]
        if tested is not None:
            names = _matching(comparison, tested, "--test")
        significance = against_baseline(reference, comparison.groups, names, correction)
    if form == "csv":
        return formats.to_csv(comparison, columns, significance)
    if form == "html":
        from neuro.analysis.compare.report import page

        return page(comparison, columns, reference, significance, pareto, directories)
    found = [tables.summary_table(comparison, columns, reference)]
    notes = [*comparison.notes]
    if significance is not None and significance.tests:
        found.append(tables.significance_table(significance))
        notes += significance.notes()
    notes += comparison.left_out.lines()
    if form == "latex":
        return "\n".join([*map(formats.latex, found), *(f"% {note}" for note in notes)])
    if form == "markdown":
        listed = "\n".join(f"- {note}" for note in notes)
        return "\n\n".join(filter(None, [*map(formats.markdown, found), listed]))
    return "\n".join([*map(formats.terminal, found), *notes])


def _compare(
    runs: Sequence[RunRecord],
    sort: str | None,
    group_by: Sequence[str] | None,
    directories: Iterable[Path],
) -> Comparison:
    from neuro.analysis.compare.comparison import compare
    from neuro.analysis.metrics import parse_direction

    metric, direction = (None, None) if sort is None else parse_direction(sort, "--sort")
    try:
        return compare(runs, sort=metric, direction=direction, group_by=group_by)
    except CheckpointError as error:
        raise CheckpointError(f"{', '.join(map(str, directories))}: {error}") from error


def _matching(comparison: Comparison, patterns: Iterable[str], option: str) -> list[str]:
    """The metrics that names or patterns with * stand for, in that order."""
    from neuro.analysis.metrics import check_known

    found: dict[str, None] = {}
    for pattern in patterns:
        names = fnmatch.filter(comparison.metrics, pattern)
        if not names:
            check_known(pattern, comparison.metrics, option)
        found |= dict.fromkeys(names)
    return list(found)


def _format_of(output: Path | None) -> str:
    """The format that a file's suffix asks for."""
    if output is None:
        return "terminal"
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if output.suffix not in by_suffix:
        raise ConfigError(
            f"--output {output}: its suffix is none of {', '.join(by_suffix)}; say --format."
        )
    return by_suffix[output.suffix]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def _list(text: str) -> list[str]:
    """Names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of names with commas between")
    return names
