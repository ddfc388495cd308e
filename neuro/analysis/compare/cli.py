"""`python -m neuro compare`: a table of configurations, and tests against a baseline."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neuro.errors import CheckpointError, ConfigError, nearest
from neuro.runtime.output import record_printed

if TYPE_CHECKING:
    from neuro.analysis.compare.comparison import Comparison
    from neuro.analysis.compare.configurations import Configuration
    from neuro.analysis.compare.significance import Significance
    from neuro.analysis.compare.statistics import Correction
    from neuro.runs.record import RunRecord

#: formats, and the suffixes of output files that select them
FORMATS = {"terminal": ".txt", "csv": ".csv", "markdown": ".md", "latex": ".tex", "html": ".html"}
#: suffixes of output files with a figure, for --x
IMAGES = (".png", ".pdf", ".svg")
CORRECTIONS = ("holm", "benjamini-hochberg", "bonferroni", "none")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `compare`."""
    parser = commands.add_parser(
        "compare",
        help="a table of configurations over seeds, with tests against a baseline",
        description="Runs whose configs differ in seeds only are one configuration. Directories "
        "are searched at any level: runs, sets of repeats, sweeps, or all of outputs.",
    )
    add = parser.add_argument
    add("directories", nargs="+", type=Path, help="runs, or directories with runs in them")
    add("--metrics", type=_list, help="columns, as in test/accuracy,continual/*")
    add("--sort", metavar="METRIC[:max|:min]", help="best first by it; default: the objective")
    add("--group-by", type=_list, metavar="KEYS", help="group runs by these config keys only")
    add("--baseline", help="test the others against it: a label, an override, or a directory")
    add("--test", type=_list, metavar="METRICS", help="metrics to test; default: that of --sort")
    add("--correction", choices=CORRECTIONS, help="for multiple comparisons; default: holm")
    add("--pareto", metavar="X,Y", help="metrics of the Pareto plot in the HTML page")
    add(
        "--x",
        metavar="KEY",
        help="draw a metric over the values of this config key, or over the numbers at the place "
        "of * in names of metrics, as test/recall_*/accuracy; with --output FILE.png, .pdf or .svg",
    )
    add("--format", choices=tuple(FORMATS), help="default: by the suffix of --output, or terminal")
    add("--output", type=Path, metavar="FILE", help="write to a file instead of the terminal")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command with parsed arguments.

    ConfigError for an option that is wrong or does not go with the others, CheckpointError if no
    run is finished.
    """
    from neuro.io.files import write_text

    if arguments.x is not None:
        _draw_lines(arguments)
        return
    form = arguments.format or _format_of(arguments.output)
    for option in ("test", "correction"):
        if getattr(arguments, option) is not None and arguments.baseline is None:
            raise ConfigError(f"--{option}: tests need a baseline; add --baseline.")
    if arguments.pareto is not None and form != "html":
        raise ConfigError("--pareto: only the HTML page has this plot; add --format html.")
    comparison = _compare(
        find(arguments.directories), arguments.sort, arguments.group_by, arguments.directories
    )
    text = render(
        comparison,
        form,
        metrics=arguments.metrics,
        baseline=arguments.baseline,
        tested=arguments.test,
        correction=arguments.correction or "holm",
        pareto=arguments.pareto,
        directories=arguments.directories,
    )
    if arguments.output is None:
        print(text)
        return
    with _writing(arguments.output):
        write_text(arguments.output, text + "\n")
    print(f"{len(comparison.configurations)} configurations compared: {arguments.output}")


def _draw_lines(arguments: argparse.Namespace) -> None:
    """Write the figure of `--x`."""
    unused = ("baseline", "test", "correction", "pareto", "format")
    if given := [f"--{name}" for name in unused if getattr(arguments, name) is not None]:
        raise ConfigError(f"{given[0]}: is for tables, and --x {arguments.x} draws a figure.")
    output = arguments.output
    if output is None or output.suffix not in IMAGES:
        raise ConfigError(
            f"--output {output}: --x {arguments.x} draws a figure; give a file with one of "
            f"{', '.join(IMAGES)}."
        )
    from neuro.analysis.compare import lines
    from neuro.analysis.plots import style
    from neuro.analysis.plots.comparison import lines_over

    comparison = _compare(
        find(arguments.directories), arguments.sort, arguments.group_by, arguments.directories
    )
    if "*" in arguments.x:
        if arguments.metrics is not None:
            raise ConfigError(f"--metrics: --x {arguments.x} names the metrics that are drawn.")
        drawn = lines.over_names(comparison, arguments.x)
        metric, label = arguments.x, "number at the place of *"
        missing = [c.label for c in comparison.configurations if c.label not in drawn]
    else:
        chosen = [comparison.objective]
        if arguments.metrics is not None:
            chosen = _matching(comparison, arguments.metrics, "--metrics")
        if len(chosen) > 1:
            raise ConfigError(f"--metrics: got {len(chosen)} metrics; --x {arguments.x} draws one.")
        drawn = lines.over_key(comparison, arguments.x, chosen[0])
        metric, label = chosen[0], arguments.x
        missing = [
            c.label
            for c in comparison.configurations
            if label not in c.config or c.interval(metric) is None
        ]
    places = [point.x for points in drawn.values() for point in points]
    figure = lines_over(drawn, label, metric, lines.logarithmic(places))
    with _writing(output):
        style.save(figure, output)
    print(f"{len(drawn)} lines drawn: {output}")
    if missing:
        print(f"not drawn, without {metric} or {label}: {', '.join(missing)}")
    for note in (*comparison.notes, *comparison.excluded.lines()):
        print(note)


def show_comparison(
    directories: Sequence[Path],
    *,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    tested: Sequence[str] | None = None,
) -> None:
    """Print the comparison of all finished runs at or below the directories, as `render` has it.

    If no configuration fits the baseline (its runs may have failed), or no metric fits, the table
    is printed with its default columns, without tests, and the error after it.

    ConfigError or CheckpointError if there is nothing to compare.
    """
    comparison = _compare(find(directories), None, None, directories)
    try:
        text = render(comparison, "terminal", metrics=metrics, baseline=baseline, tested=tested)
    except ConfigError as error:
        text = f"{render(comparison, 'terminal')}\n{error}"
    print(text)
    record_printed(text)


def find(directories: Iterable[Path]) -> list[RunRecord]:
    """All runs at or below directories.

    ConfigError lists the directories that do not exist or hold no run.
    """
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
    correction: Correction = "holm",
    pareto: str | None = None,
    directories: Sequence[Path] = (),
) -> str:
    """A comparison as text.

    - `form`: one of `FORMATS`
    - `metrics`, `tested`: columns and metrics to test, names or patterns with `*`
    - `baseline`: as in `Comparison.find`
    - `pareto`, `directories`: see `report.page`

    ConfigError for a metric or a baseline that the comparison does not have.
    """
    from neuro.analysis.compare import formats, tables
    from neuro.analysis.compare.significance import against_baseline

    columns = comparison.default_metrics()
    if metrics is not None:
        columns = tuple(_matching(comparison, metrics, "--metrics"))
    reference: Configuration | None = None
    significance: Significance | None = None
    if baseline is not None:
        reference = comparison.find(baseline)
        names = [comparison.objective]
        if tested is not None:
            names = _matching(comparison, tested, "--test")
        significance = against_baseline(reference, comparison.configurations, names, correction)
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
    notes += comparison.excluded.lines()
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
    """The metrics that fit names or patterns with *, in the order of the patterns."""
    from neuro.analysis.metrics import check_known

    found: dict[str, None] = {}
    for pattern in patterns:
        names = fnmatch.filter(comparison.metrics, pattern)
        if not names:
            check_known(pattern, comparison.metrics, option)
        found |= dict.fromkeys(names)
    return list(found)


def _format_of(output: Path | None) -> str:
    """The format that the suffix of the output file selects."""
    if output is None:
        return "terminal"
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if output.suffix not in by_suffix:
        raise ConfigError(
            f"--output {output}: unknown suffix. Allowed: {', '.join(by_suffix)}; or add --format."
        )
    return by_suffix[output.suffix]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Raise ConfigError where the output file cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written ({error}).") from error


def _list(text: str) -> list[str]:
    """Parse names that are separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of names separated by commas")
    return names
