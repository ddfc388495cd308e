"""Devices of training, their number, precision and strategy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

#: key and value that are not supported, and why
_REFUSED = {
    "device=mps": "the GPUs of Apple are not supported, because metrics and statistics are "
    "summed in 64-bit floats, which MPS does not have. Use hardware=cpu",
    "strategy=fsdp": "dividing weights among processes is not supported, because local rules, "
    "callbacks and validation read all of them. Use hardware.strategy=ddp; where a device's memory "
    "is short, also a smaller data.batch_size with trainer.accumulate, or "
    "hardware.precision=bf16-mixed",
}


class HardwareSettings(BaseModel):
    """The keys of `hardware` for training; the other keys are those of the evaluation target."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Gt(0)] | Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    strategy: Literal["auto", "ddp"]
    compile_: bool = Field(alias="compile")

    @property
    def count(self) -> int:
        """The number of devices, and of processes."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    @property
    def first(self) -> HardwareSettings:
        """A copy with the first device only."""
        one = 1 if isinstance(self.devices, int) else self.devices[:1]
        return self.model_copy(update={"devices": one})

    @field_validator("devices")
    @classmethod
    def _each_once(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if not isinstance(value, int) and len(set(value)) < len(value):
            raise PydanticCustomError("repeated", "a GPU can be given once only")
        return value

    @field_validator("device", "strategy", mode="before")
    @classmethod
    def _supported(cls, value: Any, info: ValidationInfo) -> Any:
        reason = _REFUSED.get(f"{info.field_name}={value}") if isinstance(value, str) else None
        if reason is not None:
            raise PydanticCustomError("not_supported", "{reason}", {"reason": reason})
        return value


#: the keys of the first half, as they are written
TRAINING_KEYS = tuple(f.alias or name for name, f in HardwareSettings.model_fields.items())
