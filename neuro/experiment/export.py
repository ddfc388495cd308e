"""mode=export: a finished run's model as a graph for other programs.

The graph maps inputs `[1, T, ...]` from the initial state to outputs `[1, T, K]` before pooling,
with the length T of the data. It has operations of torch in place of compiled kernels
(`ops/plain.py`), and is compared with the model before it is kept. A text is one document to it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuro.config.experiment import ExportFormat
from neuro.errors import BackendUnavailable, ConfigError, ExportError
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.io.files import write_json
from neuro.models.base import CoreModel
from neuro.models.capabilities import Budgeted, Plastic
from neuro.ops.plain import plain_forms
from neuro.runs.directory import keeping_status

log = logging.getLogger("neuro")

#: file of each format
FILES: dict[ExportFormat, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.ts",
    "torch_export": "model.pt2",
}
#: largest difference of outputs, as a fraction of the largest output (at least 1)
TOLERANCE = 1e-3
#: inputs that are compared
SAMPLES = 3
INPUT, OUTPUT = "inputs", "values"


class _Sequence(nn.Module):
    """A model in evaluation as a function of inputs, from its initial state."""

    def __init__(self, model: CoreModel, dt_ms: float | None):
        super().__init__()
        self.model = model
        self.dt_ms = dt_ms
        # of the whole: exporters restore the mode of what they are given, for all that is in it
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.model(inputs, dt_ms=self.dt_ms).values
        return values


def export(experiment: Experiment, context: RunContext) -> None:
    """Write the graph, and export.json with the shapes and the comparison with the model.

    ConfigError for models with plastic state; ExportError if a graph cannot be made, or if its
    outputs differ from those of the model; BackendUnavailable without the packages of a format.
    """
    meta = context.describe(experiment)
    kind = experiment.format
    if kind == "onnx":
        _require_onnx()
    parts = open_finished(experiment, context.directory)
    check_exportable(parts.model)
    inputs, dt_ms = _inputs(parts)
    model = _Sequence(parts.model.cpu(), dt_ms)
    path = context.directory / FILES[kind]
    with keeping_status(context.directory, experiment.plain(), meta):
        graph = write_graph(model, inputs[:1], path, kind)
        difference, scale = compare(model, graph, inputs)
        content = {
            "format": kind,
            "file": path.name,
            "checkpoint": str(parts.checkpoint),
            "inputs": {"name": INPUT, "shape": [1, *inputs.shape[1:]], "dtype": _dtype(inputs)},
            "outputs": {"name": OUTPUT},
            "dt_ms": dt_ms,
            "largest_difference": difference,
        }
        if difference > TOLERANCE * scale:
            path.unlink()
            raise ExportError(
                f"mode=export: outputs of the {kind} graph differ from the model's by up to "
                f"{difference:.3g} (largest output {scale:.3g}); the graph was not kept. Another "
                f"format may fit: format={' or '.join(k for k in FILES if k != kind)}."
            )
        write_json(context.directory / "export.json", content)
    log.info("%s: inputs %s, outputs within %.2g of the model", path, content["inputs"], difference)


def check_exportable(model: CoreModel) -> None:
    """ConfigError for a model with state that rules or its own inputs change as it is used."""
    plastic = list(model.plastic_buffers) if isinstance(model, Plastic) else []
    if isinstance(model, Budgeted):
        plastic += list(model.budget_records())
    if plastic:
        more = f" and {len(plastic) - 1} more" if len(plastic) > 1 else ""
        raise ConfigError(
            f"mode=export: {type(model).__name__} has plastic state ({plastic[0]}{more}), which a "
            "graph cannot change. Use it here (mode=evaluate, predict, generate), or export one "
            "without plastic state, such as model=lif or hybrid."
        )


def write_graph(
    model: nn.Module, example: Tensor, path: Path, kind: ExportFormat
) -> Callable[[Tensor], Tensor]:
    """Write the graph of `model` for inputs like `example`; returns it as it is read back.

    ExportError with the first line of what prevents it.
    """
    noise = StringIO()
    try:
        with (
            torch.no_grad(),
            plain_forms(),
            warnings.catch_warnings(),
            redirect_stdout(noise),
            redirect_stderr(noise),
        ):
            warnings.simplefilter("ignore")  # of tracing, about shapes that are constants here
            if kind == "torchscript":
                torch.jit.trace(model, example, check_trace=False).save(str(path))
                read: Callable[[Tensor], Tensor] = torch.jit.load(str(path))
                return read
            if kind == "torch_export":
                torch.export.save(torch.export.export(model, (example,), strict=False), path)
                return torch.export.load(path).module()
            torch.onnx.export(
                model,
                (example,),
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
            return _onnx_session(path)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        path.unlink(missing_ok=True)
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ExportError(
            f"mode=export: {type(error).__name__} in making the {kind} graph of this model: {first}"
        ) from error


def compare(
    model: nn.Module, graph: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[float, float]:
    """Largest difference between outputs of the model and of its graph, and the largest output.

    Inputs are given one by one.
    """
    difference, scale = 0.0, 1.0
    for one in inputs.split(1):
        with torch.no_grad():
            expected, found = model(one), graph(one)
        difference = max(difference, float((found - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    return difference, scale


def _inputs(parts: Finished) -> tuple[Tensor, float | None]:
    """Inputs of test samples `[N, T, ...]`, tokens without ends of documents; the time step."""
    batch = next(iter(parts.data.loader(parts.tasks[0], "test").batches()))
    inputs = batch.sequence()[:SAMPLES].contiguous()
    end = parts.spec.inputs.document_end
    if end is not None:
        inputs = torch.where(inputs == end, int(end == 0), inputs)  # another token
    return inputs, batch.dt_ms


def _require_onnx() -> None:
    """BackendUnavailable if a package of the format is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            f"format: onnx needs the package {error.name}; run pip install 'neuro[onnx]', or use "
            "format=torchscript or format=torch_export."
        ) from error


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    """The graph in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        (values,) = session.run([OUTPUT], {INPUT: inputs.numpy()})
        found: Any = torch.from_numpy(values)
        return found

    return run


def _dtype(inputs: Tensor) -> str:
    return str(inputs.dtype).removeprefix("torch.")
