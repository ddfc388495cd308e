"""Parameter groups by patterns of names, with their own learning rates and weight decays.

A schedule scales all groups by the same factor, which preserves their ratios. Parameters that match
no pattern form the first group, whose rate is the one that is logged.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import nn

from neuro.config.types import STRICT
from neuro.errors import nearest

Named = tuple[str, nn.Parameter]


@dataclass(frozen=True)
class ParameterGroup:
    """Settings of the parameters that match a pattern; None stands for the optimizer's value.

    A `weight_decay` given here applies to all of them, including vectors.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    lr: Annotated[float, Gt(0)] | None = None
    weight_decay: Annotated[float, Ge(0)] | None = None

    def __post_init__(self) -> None:
        if self.lr is None and self.weight_decay is None:
            raise ValueError("give lr, weight_decay or both")


#: groups by pattern of parameter names; a name belongs to the first pattern that matches it, and
#: null removes a pattern
Groups = dict[str, ParameterGroup | None]


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern (`*`, `?`, `[...]`) that a parameter's name matches."""
    return next((p for p in patterns if fnmatch.fnmatchcase(name, p)), None)


def unmatched(patterns: Sequence[str], names: Sequence[str], path: str) -> list[str]:
    """Problems of patterns without parameters."""
    taken = {first_match(name, patterns) for name in names}
    problems = []
    for pattern in patterns:
        if pattern in taken:
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            problems.append(
                f"{path}: earlier patterns take all that '{pattern}' matches; put it before them."
            )
        else:
            problems.append(
                f"{path}: no parameter matches '{pattern}'. The model has: {', '.join(names)}."
                + nearest(pattern, names)
            )
    return problems


def divide(
    parameters: Iterable[Named], lr: float, weight_decay: float, groups: Groups
) -> list[dict[str, Any]]:
    """Torch's parameter groups: parameters that match no pattern, then those of each pattern.

    The optimizer's weight decay applies to tensors with at least two dimensions. As usual, biases
    and other vectors are exempt.
    """
    chosen: Mapping[str, ParameterGroup] = {p: g for p, g in groups.items() if g is not None}
    members: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    for pattern in (None, *chosen):
        for matrices in (True, False):
            members[pattern, matrices] = []
    for name, parameter in parameters:
        members[first_match(name, chosen), parameter.ndim >= 2].append(parameter)
    divided = []
    for (pattern, matrices), own in members.items():
        group = chosen[pattern] if pattern is not None else None
        rate = lr if group is None or group.lr is None else group.lr
        decay = weight_decay if matrices else 0.0
        if group is not None and group.weight_decay is not None:
            decay = group.weight_decay
        if own:
            divided.append({"params": own, "lr": rate, "weight_decay": decay})
    return divided


class Together(torch.optim.Optimizer):
    """Two optimizers of disjoint parameters behind one interface, with shared groups and state.

    - `groups`: torch's parameter groups
    - `chooses`: whether a group belongs to the first optimizer
    - `first`, `second`: constructors; an optimizer without groups is not made
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        chooses: Callable[[dict[str, Any]], bool],
        first: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        second: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    ):
        places = [i for i, group in enumerate(groups) if chooses(group)]
        others = [i for i in range(len(groups)) if i not in places]
        # torch's optimizers keep the dictionaries of their groups, so that a rate set here applies
        # to the members
        self.members = [
            (make([groups[i] for i in where]), where)
            for make, where in ((first, places), (second, others))
            if where
        ]
        super().__init__(list(groups), {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """One update by both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member, _ in self.members:
            member.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        """As in torch, for both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give the members the state and groups of this optimizer."""
        for member, places in self.members:
            member.state = self.state
            member.param_groups = [self.param_groups[i] for i in places]
