"""Types of config values that many constructors have, with the limits that pydantic checks."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

Count = Annotated[int, Gt(0)]
CountFromZero = Annotated[int, Ge(0)]
Depth = Annotated[int, Interval(ge=1, le=1000)]  #: layers, which are made one by one
Seed = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]

#: `__pydantic_config__` of settings: no other keys, no conversion of types, finite numbers
STRICT: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
