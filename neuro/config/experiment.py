"""The plain keys at the root of a config, and a composed config as plain containers.

The groups beside them are components; `neuro/experiment/experiment.py` has the whole root, whose
annotations need the contracts of the layers above this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, ConfigDict

from neuro.config.modes import Mode
from neuro.config.names import checked_name
from neuro.config.opc import OPCSettings
from neuro.config.paths import with_paths
from neuro.config.scenario import ScenarioSettings

#: paths and names that cannot be empty
Text = Annotated[str, MinLen(1)]

BatchSizes = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]

ExportFormat = Literal["onnx", "torchscript", "torch_export"]


@dataclass(frozen=True)
class BenchmarkSettings:
    """Sizes that mode=benchmark measures.

    - `batches`: sequences at once
    - `steps`: lengths of the sequences; auto: half, one and two times that of the data
    - `repeats`: timed forward passes, of which the median counts
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    batches: BatchSizes = (1, 8, 32)
    steps: BatchSizes | Literal["auto"] = "auto"
    repeats: Annotated[int, Ge(1), Le(10_000)] = 5


#: seeds of repeats and of parts are sums with this one, and generators take 64 bits
MAX_SEED = 2**62


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings at the root of a config: name, mode and seed of a run, and runs that it starts from.

    conf/config.yaml explains each key.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    mode: Mode
    seed: Annotated[int, Ge(0), Lt(MAX_SEED)]
    repeats: Annotated[int, Ge(1)]
    project: Text
    name: Annotated[str, AfterValidator(checked_name)]
    group: str | None
    tags: tuple[str, ...]
    runs_dir: Text
    run: Text | Annotated[tuple[Text, ...], MinLen(1)] | None
    ensemble: Literal["mean"] | None
    checkpoint: Text
    prompt: str | None
    tokens: Annotated[int, Ge(1)]
    temperature: Annotated[float, Ge(0)]
    top_k: Annotated[int, Ge(1)] | None
    top_p: Annotated[float, Gt(0), Le(1)] | None
    resume: Text | None
    init_from: Text | None
    init_strict: bool
    teacher: Text | None
    teacher_checkpoint: Text
    teacher_mixtures: Annotated[int, Ge(0)]
    format: ExportFormat = "onnx"  # older configs lack it
    benchmark: BenchmarkSettings = BenchmarkSettings()  # older configs lack it
    check_batches: BatchSizes | Literal["auto"] | None = None  # older configs lack it
    scenario: ScenarioSettings | None = None  # older configs lack it
    opc: OPCSettings | None = None  # in experiments of mode=opc alone


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain values, with paths settled (see `paths`), without phases that are null."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    values = with_paths(config)
    if isinstance(values.get("phase"), dict):
        values["phase"] = {name: p for name, p in values["phase"].items() if p is not None}
    return values
