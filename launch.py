"""Compose an experiment with Hydra and run it: `python launch.py --help`.

Errors of the composition and of the run are printed as one message, and set the exit code. With
HYDRA_FULL_ERROR=1, tracebacks are printed too.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # for imports and composition, of which nothing becomes garbage

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from neuro.config.paths import with_quoted_home
from neuro.config.renamed import command_of_today, moved
from neuro.errors import Interrupted, NeuroError, StorageError, nearest
from neuro.runs.naming import run_directory
from neuro.runs.resume import saved_overrides
from neuro.runtime.processes import in_the_background

CONF = Path(__file__).resolve().parent / "conf"
SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as Hydra reads it

#: errors of the command line or the config. ValueError and OSError come from Hydra: those of a run
#: are handled in `main`
USER_ERRORS = (NeuroError, HydraException, OmegaConfBaseException, ValueError, OSError)

OmegaConf.register_new_resolver("neuro.run_dir", run_directory)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run the composed experiment; returns its objective, which Hydra passes to sweepers."""
    # imported after the composition, so that --cfg and --help do not wait for it
    from neuro.experiment.context import RunContext
    from neuro.run import run

    if not gc.isenabled():
        gc.freeze()  # modules stay; later collections need not visit them
        gc.enable()
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    context = RunContext(
        composed=cfg,
        directory=directory,
        overrides=tuple(hydra_config.overrides.task),
        groups=frozenset(hydra_config.runtime.choices),
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
    print(f"\nError: {text}", file=sys.stderr)
    return getattr(error, "exit_code", 2)


def _explain(error: BaseException) -> str:
    """The message for an error of Hydra or OmegaConf, with the nearest allowed name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not a valid override ({message})."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file)
    cause: Any = error.__cause__ if error.__cause__ is not None else error
    parent = getattr(cause, "parent_node", None)
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(parent, DictConfig):
        return _unknown_key(message, parent, str(cause.key))
    if isinstance(error, OSError):
        return f"{error}. Set runs_dir or hydra.run.dir to a writable directory."
    return message


def _missing_option(config: str) -> str:
    """The message for an option that a group does not have, or a group that does not exist."""
    group, _, option = config.removesuffix(".yaml").rpartition("/")
    found = (path.stem for path in (CONF / group).glob("*.yaml"))
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
    message = message.partition(" To append")[0].rstrip(".")  # an appended key is refused too
    allowed = sorted(str(k) for k in parent if k != "hydra")
    if parent._get_parent() is None:
        allowed = sorted({*allowed, *_groups()})
    if not allowed:
        return f"{message}: the mapping is empty. Add keys with a leading +."
    return f"{message}: unknown key. Allowed here: {', '.join(allowed)}.{nearest(key, allowed)}"


def _groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def command_line() -> int:
    """Run the command in sys.argv; returns the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits with 1
    try:
        sys.argv[1:] = [with_quoted_home(command_of_today(text)) for text in sys.argv[1:]]
        first = next((i for i, a in enumerate(sys.argv) if i and _is_override(a)), 1)
        # beside the other overrides: argparse needs positional arguments in one sequence
        sys.argv[first:first] = saved_overrides(sys.argv[1:])
        with in_the_background() as overrides:
            sys.argv += overrides
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
