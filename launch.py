"""Compose an experiment with Hydra and run it: `python launch.py --help`.

Errors of composition and of the run alike end with one message and the error's exit code; set
HYDRA_FULL_ERROR=1 for tracebacks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neuro.continuation import saved_overrides
from neuro.errors import NeuroError, nearest
from neuro.naming import run_directory

OmegaConf.register_new_resolver("neuro.run_dir", run_directory)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run the composed experiment; the return value is a sweep's objective."""
    from neuro.run import RunContext, run  # after composition, which needs none of it

    hydra_config = HydraConfig.get()
    context = RunContext(
        directory=hydra_config.runtime.output_dir,
        overrides=tuple(hydra_config.overrides.task),
        groups=frozenset(hydra_config.runtime.choices),
    )
    return run(cfg, context)


def _explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors as one message with the nearest allowed name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2]) if lines else type(error).__name__
    options = getattr(error, "options", None)
    if options:  # an option that a group does not have
        wanted = str(getattr(error, "missing_cfg_file", "")).rpartition("/")[2]
        return f"{lines[0]}. Options: {', '.join(options)}.{nearest(wanted, options)}"
    cause: Any = error.__cause__ if error.__cause__ is not None else error
    parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if isinstance(parent, DictConfig) and key is not None:
        allowed = [str(k) for k in parent]
        return f"{message} Allowed here: {', '.join(allowed)}.{nearest(str(key), allowed)}"
    return message


if __name__ == "__main__":
    show_tracebacks = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors itself and exits with 1
    try:
        sys.argv[1:1] = saved_overrides(sys.argv[1:])
        main()
    except (NeuroError, HydraException, OmegaConfBaseException) as error:
        if show_tracebacks:
            raise
        text = str(error) if isinstance(error, NeuroError) else _explain(error)
        print(f"\nError: {text}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
