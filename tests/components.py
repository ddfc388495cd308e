"""Valid and invalid components for the tests of `neuro.config.build`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval, MinLen

from neuro.config.build import parse
from neuro.errors import ConfigError


def check(node: object, contract: type, path: str) -> list[str]:
    """The problems of a config node."""
    try:
        parse(node, contract, path)
    except ConfigError as error:
        return error.problems
    return []


@dataclass(frozen=True)
class Shape:
    kind: Literal["round", "square"] = "round"
    slope: float = 1.0

    def __post_init__(self) -> None:
        if self.slope <= 0:
            raise ValueError("slope must be above 0")


class Part(ABC):
    supplied = ("spec",)

    @abstractmethod
    def work(self) -> None: ...

    @abstractmethod
    def rest(self) -> None: ...


class Good(Part):
    def __init__(
        self,
        spec: str,
        rate: Annotated[float, Interval(gt=0, le=1)] = 0.5,
        count: Annotated[int, Gt(0)] = 1,
        name: str = "x",
        on: bool = False,
        kind: Literal["fast", "slow"] = "fast",
        sizes: Annotated[tuple[int, ...], MinLen(1)] = (1,),
        memory: int | Literal["auto"] = "auto",
        shape: Shape = Shape(),
        limit: float | None = None,
        helper: Helper | None = None,
    ):
        if name == "refused":
            raise ValueError("this name is taken")
        if name == "odd":
            raise ValueError("name: got 'odd'; expected an even name")
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

    def work(self) -> None: ...

    def rest(self) -> None: ...


class Helper:
    supplied: tuple[str, ...] = ()

    def __init__(self, level: Annotated[int, Gt(0)], spec: str = "own"):
        self.level = level
        self.spec = spec


class Needy(Good):
    def __init__(self, spec: str, size: int):
        super().__init__(spec)
        self.size = size


class Plain(Good):
    """A component without arguments in the config."""

    def __init__(self) -> None:
        super().__init__("none")


class Half(Part):
    def work(self) -> None: ...


class Loose(Good):
    def __init__(self, spec: str, **options: int):
        super().__init__(spec)


class Untyped(Good):
    def __init__(self, spec, size=3):  # type: ignore[no-untyped-def]
        super().__init__(spec)


class Stranger:
    pass


def function() -> None: ...
