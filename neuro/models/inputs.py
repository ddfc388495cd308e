"""Check that a task has sequences that a model can process, for constructors of models."""

from __future__ import annotations

from torch import Tensor

from neuro.data.base import InputSpec, TaskSpec


def check_sequences(spec: TaskSpec, *, time_step: bool) -> None:
    """ValueError for tasks that do not fit a map of float inputs `[B, T, ...]` to `[B, T, K]`.

    `time_step`: whether the dynamics need the duration of a step.
    """
    if spec.inputs.dtype != "float":
        raise ValueError(
            f"needs numbers as inputs; task '{spec.task}' has integers. Use one-hot inputs "
            "(data.input_encoding=one_hot), or a model that embeds tokens"
        )
    if spec.targets.kind in ("image", "class_map"):
        raise ValueError(
            f"gives outputs [steps, {spec.outputs}]; task '{spec.task}' has targets of shape "
            f"{list(spec.targets.shape)} ({spec.targets.kind}). Use a model of images"
        )
    if time_step and not spec.has_time_step:
        raise ValueError(
            f"has time constants in ms; the steps of task '{spec.task}' have no unit of time "
            "(dt_ms is None). Give the time step (data.dt_ms; HDF5: attribute frame_rate, or "
            "data.rate_hz), or use a model without time constants"
        )


def elapsed_times(spec: InputSpec, inputs_BTF: Tensor) -> Tensor | None:
    """Time before each step, `[T, B]`; None if steps are equally long."""
    return None if spec.elapsed is None else inputs_BTF[..., spec.elapsed].T
