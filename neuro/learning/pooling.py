"""Pooling over time: one value per output of a sequence, `[B, T, K]` to `[B, K]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

Kind = Literal["mean", "sum", "max", "last", "rms", "mean_last_n", "ewa"]


class Pooling(BaseModel):
    """Reduction of the outputs s_1..s_T of a sequence to one.

    - mean, sum, max, last: over all steps, or the last step
    - rms: sqrt(mean(s^2) + 1e-8)
    - mean_last_n: mean over the last `n` steps (all of them where there are fewer)
    - ewa: exponentially weighted average, sum of w_i s_i / sum of w_i with
      w_i = m^(1 - i/(T-1)), i = 0..T-1, so that the last step weighs 1 and the first
      `min_weight` m (0.2 unless given)

    A kind without parameters can be given by its name. ValueError for a parameter of another kind,
    which would have no effect.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    kind: Kind
    n: Annotated[int, Ge(1)] | None = None
    min_weight: Annotated[float, Gt(0), Le(1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _own_parameters(self) -> Pooling:
        if self.kind == "mean_last_n" and self.n is None:
            raise ValueError("mean_last_n needs n, as in {kind: mean_last_n, n: 10}")
        for name, owner in (("n", "mean_last_n"), ("min_weight", "ewa")):
            if getattr(self, name) is not None and self.kind != owner:
                raise ValueError(
                    f"{name} belongs to {owner}; with kind {self.kind} it has no effect"
                )
        return self

    @property
    def of_the_end(self) -> bool:
        """True if only the last steps of a sequence count."""
        return self.kind in ("last", "mean_last_n")

    def joined(self, parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Combine the pooled outputs `[B, K]` of consecutive parts to that of the whole sequence.

        `shares` are the parts' fractions of the steps (1 for the last part if `of_the_end`). Exact
        except for ewa, which weights each part by the centre of its steps.
        """
        values_PBK = torch.stack(list(parts))
        if self.kind == "max":
            return values_PBK.amax(0)
        share_P = values_PBK.new_tensor(list(shares))
        if self.kind == "ewa":
            age_P = 1 - share_P.cumsum(0) + share_P / 2
            share_P = share_P * self._least**age_P
            share_P = share_P / share_P.sum()
        weight_P11 = share_P[:, None, None]
        if self.kind == "rms":
            return (values_PBK.square() * weight_P11).sum(0).sqrt()
        return (values_PBK * weight_P11).sum(0)

    @property
    def _least(self) -> float:
        """The weight of the first step in ewa."""
        return 0.2 if self.min_weight is None else self.min_weight

    def __call__(self, values_BTK: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """`[B, T, K]` to `[B, K]`, over the first `lengths` steps of each sequence if given."""
        if lengths_B is not None:
            return self._without_padding(values_BTK, lengths_B.clamp_min(1))
        match self.kind:
            case "mean":
                # the gradient of sum is an expanded view; that of torch's mean fills memory
                return values_BTK.sum(1) / values_BTK.shape[1]
            case "sum":
                return values_BTK.sum(1)
            case "max":
                return values_BTK.amax(1)
            case "last":
                return values_BTK[:, -1]
            case "rms":
                return (values_BTK.square().mean(1) + 1e-8).sqrt()
            case "mean_last_n":
                assert self.n is not None
                return values_BTK[:, -self.n :].mean(1)
            case _:
                return self._weighted(values_BTK)

    def _weighted(self, values_BTK: Tensor) -> Tensor:
        steps = values_BTK.shape[1]
        age_T = torch.arange(steps - 1, -1, -1, device=values_BTK.device) / max(steps - 1, 1)
        weight_T = (self._least**age_T).to(values_BTK.dtype)
        return torch.einsum("btk,t->bk", values_BTK, weight_T / weight_T.sum())

    def _without_padding(self, values_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        """Pooling over the steps of each sequence without padding, at least one."""
        step_T = torch.arange(values_BTK.shape[1], device=values_BTK.device)
        length_B1 = lengths_B[:, None]
        own_BT = step_T < length_B1
        if self.kind == "max":
            return values_BTK.masked_fill(~own_BT[..., None], -torch.inf).amax(1)
        match self.kind:
            case "last":
                weight_BT = step_T == length_B1 - 1
            case "mean_last_n":
                assert self.n is not None
                weight_BT = own_BT & (step_T >= length_B1 - self.n)
            case "ewa":
                age_BT = (length_B1 - 1 - step_T) / (length_B1 - 1).clamp_min(1)
                weight_BT = self._least**age_BT * own_BT
            case _:
                weight_BT = own_BT
        weight_BT = weight_BT.to(values_BTK.dtype)
        if self.kind != "sum":
            weight_BT = weight_BT / weight_BT.sum(1, keepdim=True)
        values_BTK = values_BTK.where(own_BT[..., None], 0)
        if self.kind == "rms":
            return (torch.einsum("btk,bt->bk", values_BTK.square(), weight_BT) + 1e-8).sqrt()
        return torch.einsum("btk,bt->bk", values_BTK, weight_BT)


MEAN = Pooling(kind="mean")


def among(values: Tensor, choices: Tensor | None) -> Tensor:
    """Scores `[B, ..., K]` with the least value where `choices` `[B, K]` is False; None: all."""
    if choices is None:
        return values
    shape = (len(choices), *(1 for _ in values.shape[1:-1]), choices.shape[-1])
    return values.masked_fill(~choices.view(shape), torch.finfo(values.dtype).min)
