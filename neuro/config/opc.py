"""The `opc` node of a config: inverse lithography by mode=opc."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict, model_validator

from neuro.config.types import Positive

Weight = Annotated[float, Ge(0)]


class OPCSettings(BaseModel):
    """Targets, process corners and the optimisation of masks; see conf/opc/default.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    tasks: Annotated[tuple[str, ...], MinLen(1)] = ("all",)
    samples: Annotated[int, Gt(0)] = 2
    threshold: Positive = 0.225
    dose: Annotated[float, Ge(0), Lt(1)] = 0.02
    defocus_nm: Annotated[tuple[float, ...], MinLen(1)] = (0.0, 100.0)
    steps: Annotated[int, Gt(0)] = 150
    lr: Positive = 0.1
    initial: Literal["target", "noise"] = "target"
    mask_steepness: Positive = 4.0
    print_steepness: Positive = 50.0
    l2_weight: Weight = 1.0
    pv_weight: Weight = 1.0
    smoothness: Weight = 0.02
    binary_weight: Weight = 0.5
    binary: bool = True

    @model_validator(mode="after")
    def _has_a_target(self) -> OPCSettings:
        if not self.l2_weight and not self.pv_weight:
            raise ValueError(
                "l2_weight and pv_weight are both 0, so that nothing compares prints with targets; "
                "give one of them"
            )
        return self
