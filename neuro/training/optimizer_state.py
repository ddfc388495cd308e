"""The state of an optimizer by names of parameters.

Torch numbers the parameters of a state. With names it can be loaded into an optimizer of another
phase, which trains other parameters or has other options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def state_by_name(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Any]]:
    """The state of an optimizer (momenta, counts of updates) by names of parameters."""
    return {
        name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state
    }


def load_state_by_name(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    states: Mapping[str, Mapping[str, Any]],
) -> None:
    """Load a result of `state_by_name` into an optimizer, for the parameters that it trains."""
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        if name in states and parameter in trained:
            optimizer.state[parameter] = {
                key: _placed(value, parameter) for key, value in states[name].items()
            }


def _placed(value: Any, parameter: nn.Parameter) -> Any:
    """Copy a value to a parameter's device; scalars (counts) stay on the CPU, as in torch."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
