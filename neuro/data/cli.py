"""`python -m neuro data make|example|inspect`: make data files, and look into any."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from neuro.config.paths import expanded
from neuro.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"


def register(commands: Any) -> None:
    """Add `data` with its subcommands."""
    data = commands.add_parser("data", help="make data files, or look into one")
    actions = data.add_subparsers(metavar="make|example|inspect", required=True)

    make_parser = actions.add_parser("make", help="make or convert the data of conf/data/<name>")
    make_parser.add_argument("name", help="an option of the data group, such as temporal_digits")
    make_parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of that option, e.g. coding=poisson, or tokenizer=char for a component of it",
    )
    make_parser.set_defaults(run=lambda a: make(a.name, a.overrides))

    example_parser = actions.add_parser(
        "example", help="write a file with a label per step: digits one after the other"
    )
    example_parser.add_argument("file", type=Path)
    example_parser.add_argument("--digits", type=int, default=2, help="in a sequence (2)")
    example_parser.add_argument("--steps", type=int, default=10, help="that show a digit (10)")
    example_parser.add_argument("--seed", type=int, default=0, help="draws the digits (0)")
    example_parser.add_argument("--overwrite", action="store_true", help="replace another file")
    example_parser.set_defaults(
        run=lambda a: example(a.file, a.digits, a.steps, a.seed, overwrite=a.overwrite)
    )

    inspect_parser = actions.add_parser(
        "inspect",
        help="what an HDF5 or IDX file or a folder of tokens holds, and how to learn from it",
    )
    inspect_parser.add_argument("file", type=Path)
    inspect_parser.set_defaults(run=lambda a: inspect(a.file))


def example(path: Path, digits: int, steps: int, seed: int, *, overwrite: bool = False) -> None:
    """Write the example file unless it exists, and print commands that use it.

    DataError if another file is there, unless `overwrite`.
    """
    from neuro.data.sequences.example import is_example, write_example

    for name, value in (("digits", digits), ("steps", steps)):
        if value < 1:
            raise ConfigError(f"--{name}: got {value}; expected at least 1.")
    if seed < 0:
        raise ConfigError(f"--seed: got {seed}; expected 0 or more.")
    path = Path(expanded(str(path)))
    if overwrite or not is_example(path, digits=digits, steps=steps, seed=seed):
        if path.is_dir() or (path.exists() and not overwrite):
            raise DataError(
                f"{path}: exists already. Choose another name"
                + ("." if path.is_dir() else ", or replace it with --overwrite.")
            )
        write_example(path, digits=digits, steps=steps, seed=seed)
    inspect(path)


def inspect(path: Path) -> None:
    """Print the content of a file and the commands that can use it."""
    from neuro.data.inspecting import inspected

    print("\n".join(inspected(path)))


def make(name: str, overrides: list[str]) -> None:
    """Build and prepare the source of a config option, and print its content."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from neuro.config.build import build
    from neuro.config.paths import with_paths
    from neuro.data.base import SPLITS, DataSource
    from neuro.data.ragged.source import RaggedSource
    from neuro.data.ragged.source import described as ragged_lines
    from neuro.data.sequences.source import SequenceSource
    from neuro.data.tokens.inspecting import described
    from neuro.data.tokens.text import Text

    name = name.removeprefix("data=")
    overrides = [re.sub(r"^data[./]", "", text) for text in overrides]
    file = CONF / f"{name}.yaml"
    if not file.is_file():
        options = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "base")
        raise ConfigError(
            f"data={name}: no such option; there are {', '.join(options)}.{nearest(name, options)}"
        )
    if wrong := [text for text in overrides if "=" not in text]:
        raise ConfigError([f"{text!r}: expected key=value." for text in wrong])
    given = dict(text.split("=", 1) for text in overrides)
    components = {key: given[key] for key in given if (CONF / key).is_dir()}
    keys = [text for text in overrides if text.partition("=")[0] not in components]
    try:
        node = OmegaConf.merge(*inherited(file, components), OmegaConf.from_dotlist(keys))
        config = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        config = with_paths({"data": config})["data"]
    except OmegaConfBaseException as error:
        raise ConfigError(f"data.{error.full_key or name}: {error.msg}") from error
    source = build(config, DataSource, "data")
    with _progress_lines():
        source.prepare()
    if isinstance(source, Text):
        print("\n".join(described(source.corpus.shards)))
        return
    if isinstance(source, RaggedSource):
        print("\n".join(ragged_lines(source)))
        return
    for task in source.tasks:
        spec = source.spec(task)
        shape = " x ".join(map(str, spec.inputs.shape)) or "symbols"
        classes = f"classes {_listed(spec.classes)}"
        if spec.targets.kind == "token":
            classes = f"{spec.targets.classes} tokens"
        print(f"{task}: {shape}, {spec.described_timings}, {spec.targets.kind}, {classes}")
        for split in SPLITS:
            print(f"  {split:5s} {source.loader(task, split).samples:6d} samples")
            if isinstance(source, SequenceSource):
                for part in source.parts(task, split):
                    held = ", held" if part.split.held_frames else ""
                    rate = f" at {part.rate_hz:g} Hz" if part.rate_hz else ""
                    print(
                        f"        {len(part):6d} of {part.split.frames} frames{held}{rate} in "
                        f"{part.split.path}"
                    )


@contextmanager
def _progress_lines() -> Iterator[None]:
    """Print the progress that is logged where there is no terminal for a bar."""
    logger, handler = logging.getLogger("neuro.runtime.progress"), logging.StreamHandler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def inherited(file: Path, components: Mapping[str, str] | None = None) -> Iterator[DictConfig]:
    """The config of an option after those that it inherits (`defaults: [base@_here_, _self_]`).

    `components`: options in place of the default ones of nested groups (`tokenizer: byte`).
    """
    from omegaconf import OmegaConf

    own = cast("DictConfig", OmegaConf.load(file))
    for entry in own.pop("defaults", ["_self_"]):
        if not isinstance(entry, str):
            for group, default in entry.items():
                choice = (components or {}).get(group, default)
                options = sorted(path.stem for path in (file.parent / group).glob("*.yaml"))
                if choice not in options:
                    raise ConfigError(
                        f"{group}={choice}: no such option; there are {', '.join(options)}."
                        + nearest(choice, options)
                    )
                for node in inherited(file.parent / group / f"{choice}.yaml"):
                    yield OmegaConf.create({group: node})
            continue
        name = entry.partition("@")[0]
        if name == "_self_":
            yield own
        else:
            folder = CONF.parent if name.startswith("/") else file.parent
            yield from inherited(folder / f"{name.lstrip('/')}.yaml", components)


def _listed(classes: tuple[int, ...]) -> str:
    return ", ".join(map(str, classes)) or "none"
