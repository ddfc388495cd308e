"""Compose an experiment with Hydra and run it: `python launch.py --help`.

Errors of the composition and of the run are printed as one message, and set the exit code. With
HYDRA_FULL_ERROR=1, tracebacks are printed too.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # imports and composition create no garbage; collections would only cost time

import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import neuro
from neuro.config.commands import argument
from neuro.config.paths import with_quoted_home
from neuro.config.renamed import command_of_today, moved
from neuro.errors import ConfigError, Interrupted, NeuroError, StorageError, nearest
from neuro.runs.naming import run_directory
from neuro.runs.resume import config_dir_of, saved_call
from neuro.runtime.output import make_output_robust
from neuro.runtime.processes import quiet_helper
from neuro.search.composing import compose_quickly

#: directory of the config groups: beside this file in a checkout and in a search's copy of one,
#: inside the package in a wheel
CONF = Path(__file__).resolve().parent / "conf"
if not CONF.is_dir():
    CONF = Path(neuro.__file__).parent / "conf"
SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as Hydra reads it

#: errors of the command line or the config. ValueError and OSError are those that Hydra raises;
#: those of a run are handled in `main`
USER_ERRORS = (NeuroError, HydraException, OmegaConfBaseException, ValueError, OSError)

CONFIG_DIR = ("--config-dir", "-cd")
#: Hydra's flags whose value is the next argument
VALUED_FLAGS = (*CONFIG_DIR, "--cfg", "-c", "--package", "-p", "--info", "-i")
#: Hydra's flags that do not apply here, and the reason
REFUSED_FLAGS = dict.fromkeys(
    ("--config-name", "-cn", "--config-path", "-cp"),
    "neuro has one root config. Put your own options into a directory: --config-dir=DIR, see "
    "README.",
)
REFUSED_FLAGS["--experimental-rerun"] = (
    "unpickles a file, which neuro never does. Use resume=RUN, or the command in run_meta.json."
)

OmegaConf.register_new_resolver("neuro.run_dir", run_directory)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run the composed experiment; returns its objective, which Hydra passes to sweepers."""
    # imported after the composition, because --cfg and --help do not need it
    from neuro.experiment.context import RunContext
    from neuro.run import run

    if not gc.isenabled():
        gc.freeze()  # modules live as long as the process; later collections need not visit them
        gc.enable()
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    context = RunContext(
        composed=cfg,
        directory=directory,
        overrides=tuple(hydra_config.overrides.task),
        groups=frozenset(hydra_config.runtime.choices),
        config_dir=config_dir_of(hydra_config.runtime.config_sources),
        group=directory.parent.name if hydra_config.mode is RunMode.MULTIRUN else None,
    )
    try:
        return run(context)
    except Exception as error:
        if not isinstance(error, NeuroError):
            traceback.print_exc()
        if hydra_config.mode is RunMode.MULTIRUN:
            if isinstance(error, (Interrupted, StorageError)):
                raise KeyboardInterrupt(str(error)) from error  # else Hydra starts the next job
            raise  # the sweeper handles failed jobs
        sys.exit(_report(error) if isinstance(error, NeuroError) else 1)


def _report(error: BaseException) -> int:
    """Print an error's message; returns the exit code."""
    if SHOW_TRACEBACKS:
        traceback.print_exception(error)
    text = str(error) if isinstance(error, NeuroError) else _explain(error)
    label = "" if isinstance(error, Interrupted) else "Error: "
    print(f"\n{label}{text}", file=sys.stderr)
    return getattr(error, "exit_code", 2)


def _explain(error: BaseException) -> str:
    """The message for an error of Hydra or OmegaConf, with the nearest allowed name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    message = re.sub("^ConfigError raised while resolving interpolation: ", "", message)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not a valid override ({message}). A string with special characters "
            "needs quotes for Hydra within quotes for the shell: \"key='a=b, ~c'\"."
        )
    if ambiguous := re.match("Ambiguous value for argument '(.*)'", message):
        key, _, value = ambiguous[1].partition("=")
        text = f"{key}: got several values, {value}. Add -m for one run with each"
        listed = shlex.quote(f"{key}=[{value}]")
        also = f"; a list is {listed}, a string {argument(key, value)}"
        return f"{text}{'' if key in _groups() else also}."
    if message.startswith("Config group override must be a string"):
        given = [text for text in sys.argv[1:] if "=" in text and not text.startswith("-")]
        for override in OverridesParser.create().parse_overrides(given):
            key, value = override.key_or_group, override.value()
            if key.partition("/")[0] in _groups() and not isinstance(value, (str, list)):
                optional = f"- {key}: null" in (CONF / "config.yaml").read_text()
                without = f", or leave the group out by '~{key}'" if optional else ""
                return f"{override.input_line}: name an option of the group{without}."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file)
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(
        cause.parent_node, DictConfig
    ):
        return _unknown_key(message, cause.parent_node, str(cause.key))
    if isinstance(error, OSError):
        return f"{error}. Set runs_dir or hydra.run.dir to a writable directory."
    return message


def _missing_option(config: str) -> str:
    """The message for an option that a group does not have, or a group that does not exist."""
    group, _, option = config.removesuffix(".yaml").rpartition("/")
    added = _values_of(sys.argv[1:], CONFIG_DIR)
    found = (
        path.stem for root in (str(CONF), *added) for path in (Path(root) / group).glob("*.yaml")
    )
    options = sorted(name for name in found if name != "base")  # options inherit from base
    if not options:
        return f"{group}: there is no such group.{nearest(group, _groups())}"
    allowed = ", ".join(options)
    return f"{group}: there is no option '{option}'. Options: {allowed}.{nearest(option, options)}"


def _unknown_key(message: str, parent: DictConfig, key: str) -> str:
    """The message for a key that its mapping does not have."""
    path = ".".join(filter(None, (parent._get_full_key(None), key)))
    if new := moved(path):
        return f"{path}: is called {new} now."
    # Hydra advises to append with +, but the parser of the config refuses an appended key too
    message = message.partition(" To append")[0].rstrip(".")
    allowed = sorted(str(k) for k in parent if k != "hydra")
    if parent._get_parent() is None:
        allowed = sorted({*allowed, *_groups()})
    group, _, option = path.rpartition(".")
    if group and (CONF / group.replace(".", "/") / f"{option}.yaml").is_file():
        return f"{path}: {option} is not part of this config. Add it: {group}=[...,{option}]."
    if not allowed or re.fullmatch(r"phase\.\w+\.flags\.\w+", path):
        given = f"has {', '.join(allowed)}" if allowed else "is empty"
        return f"{message}: the mapping {given}. Add keys with a leading +."
    return f"{message}: unknown key. Allowed here: {', '.join(allowed)}.{nearest(key, allowed)}"


def _groups() -> list[str]:
    """Names of the config groups."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def _overrides_and_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides and flags for Hydra, including those of the run that `resume` or `run` names.

    Hydra's argparse needs overrides in one sequence, before flags with an optional value.
    ConfigError for flags of Hydra that do not apply here.
    """
    flags: list[str] = []
    overrides: list[str] = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        is_override = before not in VALUED_FLAGS and not text.startswith("-")
        is_override &= "=" in text or text.startswith("~")
        (overrides if is_override else flags).append(text)
        if reason := REFUSED_FLAGS.get(text.partition("=")[0]):
            raise ConfigError(f"{text.partition('=')[0]}: {reason}")
    saved = saved_call(arguments)
    if saved.config_dir is not None and not _values_of(flags, CONFIG_DIR):
        flags += ["--config-dir", saved.config_dir]
    return [*saved.overrides, *overrides], flags


def _values_of(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The values that the command line gives to a flag."""
    found = [value for flag, value in itertools.pairwise(arguments) if flag in flags]
    parts = (text.partition("=") for text in arguments)
    return found + [value for flag, equals, value in parts if equals and flag in flags]


def command_line() -> int:
    """Run the command in sys.argv; returns the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits with 1
    make_output_robust()
    compose_quickly()
    try:
        arguments = [with_quoted_home(command_of_today(text)) for text in sys.argv[1:]]
        overrides, flags = _overrides_and_flags(arguments)
        with quiet_helper() as added:
            sys.argv[1:] = [*overrides, *added, *flags]
            main()
    except KeyboardInterrupt as error:
        text = str(error) or "Interrupted before the first update; nothing was saved."
        print(f"\n{text}", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        return _report(error)
    return 0


if __name__ == "__main__":
    sys.exit(command_line())
