"""The command `python -m neuro dashboard`: a study in Optuna's dashboard."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from neuro.errors import BackendUnavailable, CheckpointError


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `dashboard`."""
    dashboard = commands.add_parser("dashboard", help="show a search in Optuna's dashboard")
    dashboard.add_argument("directory", type=Path, help="a search's directory, multirun/<name>")
    dashboard.add_argument("--port", type=int, default=8080, help="port on localhost")
    dashboard.set_defaults(run=lambda asked: serve(asked.directory, asked.port))


def serve(directory: Path, port: int) -> None:
    """Serve the dashboard of a search on localhost until Ctrl-C.

    CheckpointError if the directory holds no study, BackendUnavailable without the dashboard.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise BackendUnavailable(
            "optuna-dashboard is not installed. Use pip install 'neuro[dashboard]'."
        )
    files = {"sqlite": directory / "study.db", "journal": directory / "study.log"}
    kinds = [kind for kind, path in files.items() if path.is_file()]
    if not kinds:
        raise CheckpointError(
            f"{directory}: holds no study (study.db or study.log). Give the directory of a search, "
            "multirun/<name>; a study in a database: optuna-dashboard <URL>."
        )
    from optuna_dashboard import run_server

    from neuro.search.storage import open_storage

    path = files[kinds[0]].resolve()
    print(f"Dashboard of {path}: http://localhost:{port}/dashboard  (Ctrl-C ends it)", flush=True)
    run_server(open_storage(f"{kinds[0]}:///{path}"), host="localhost", port=port)
