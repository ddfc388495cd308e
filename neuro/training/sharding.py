"""Where a model's weights are while it trains: whole on every process, or divided among them.

One process has all weights, and so has every process under DDP. Under FSDP each keeps a part of
every weight, of its gradient and of what the optimizer remembers. A step gathers the weights
before its forward pass and lets go of them after backward, so that losses and local rules see them
whole. Everything beside the steps (validation, callbacks, checkpoints) asks for whole weights with
`gather`; what it writes into them is divided again when the next step begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.strategies.strategy import _BackwardSyncControl
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.func import functional_call

from neuro.learning.step import TrainStep
from neuro.training.optimizers import load_state_by_name, state_by_name
from neuro.training.phases import PhasePlan

OptimizerState = dict[str, dict[str, Any]]


def weights_of(step: TrainStep, fabric: Fabric) -> Weights:
    """The weights of a step's model as the fabric's strategy keeps them."""
    divided = isinstance(fabric.strategy, FullyShardedStrategy)
    return DividedWeights(step, fabric) if divided else Weights(step, fabric)


class Weights:
    """The weights of a model of which every process has all, and the step that learns them."""

    #: whether a process has but a part of what a checkpoint holds
    divided = False

    def __init__(self, step: TrainStep, fabric: Fabric):
        self._step = step
        self._fabric = fabric

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What an optimizer updates, by the names of the model's parameters."""
        return dict(self._step.model.named_parameters())

    def freeze(self, frozen: Callable[[str], bool]) -> None:
        """Let all parameters learn but those of these names; all processes join."""
        for name, parameter in self._step.model.named_parameters():
            parameter.requires_grad_(not frozen(name))

    def wrap(self) -> nn.Module:
        """The step on the fabric's device, in its strategy and precision.

        One process in full precision gets the step itself: Fabric's wrapper would only look at
        every tensor that goes in or out, which takes a tenth of a millisecond per step.
        """
        wrapper = self._fabric.setup_module(self._step)
        precision = self._fabric.strategy.precision
        plain = self._fabric.world_size == 1 and type(precision) is Precision
        return self._step if plain else wrapper

    def gather(self) -> None:
        """Let the model have whole weights until `divide`; all processes join."""

    def divide(self) -> None:
        """Steps follow: what was written into whole weights goes to where they are kept."""

    def whole(self, value: Tensor) -> Tensor:
        """All of a value that is divided as weights are; all processes join."""
        return value

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> OptimizerState:
        """What an optimizer remembers of whole weights, by their names; all processes join."""
        return state_by_name(optimizer, self.parameters)

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, states: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Give an optimizer what `optimizer_state` took, as far as it trains those parameters."""
        load_state_by_name(optimizer, self.parameters, states)


class DividedWeights(Weights):
    """The weights of a model of which every process keeps a part, by FSDP2.

    FSDP divides a shelf of parameters and knows nothing of the model, whose own parameters stay
    what they were for everyone who holds them. Gathered, they are copies of the shelf's; divided,
    they have their shapes but no memory, and read as NaN.
    """

    divided = True

    def __init__(self, step: TrainStep, fabric: Fabric):
        super().__init__(step, fabric)
        self._own = dict(step.model.named_parameters())
        self._shelf = _Shelf(step, self._own)
        self._wrapper = fabric.setup_module(self._shelf)
        self._sharded = cast(FSDPModule, self._shelf)
        self._parts = self._shelf.named()
        self._gathered = True

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._parts

    def freeze(self, frozen: Callable[[str], bool]) -> None:
        super().freeze(frozen)
        for name, part in self._parts.items():
            part.requires_grad_(not frozen(name))
        self.divide()
        self.gather()  # FSDP looks at what learns when it gathers

    def wrap(self) -> nn.Module:
        self._step.to(self._fabric.device)  # what an objective holds is not divided
        return self._wrapper

    def gather(self) -> None:
        if self._gathered:
            return
        self._sharded.unshard()
        for name, whole in self._shelf.named().items():
            self._own[name].data = whole.detach().clone()
        self._sharded.reshard()
        self._gathered = True

    @torch.no_grad()
    def divide(self) -> None:
        if not self._gathered:
            return
        for name, own in self._own.items():
            self._local(self._parts[name]).copy_(self._local(self._part(own, name)))
            own.data = own.new_full((), math.nan).expand(own.shape)
        self._gathered = False

    def whole(self, value: Tensor) -> Tensor:
        return value.full_tensor() if isinstance(value, DTensor) else value

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> OptimizerState:
        return {
            name: {
                key: value.full_tensor().cpu() if isinstance(value, DTensor) else value
                for key, value in state.items()
            }
            for name, state in super().optimizer_state(optimizer).items()
        }

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, states: Mapping[str, Mapping[str, Any]]
    ) -> None:
        known = {name: state for name, state in states.items() if name in self._parts}
        parts = {
            name: {
                key: self._part(value, name) if _like(value, self._parts[name]) else value
                for key, value in state.items()
            }
            for name, state in known.items()
        }
        super().load_optimizer_state(optimizer, parts)

    def _part(self, whole: Tensor, name: str) -> Tensor:
        """A whole tensor divided as the parameter of that name is."""
        like = self._parts[name].data
        assert isinstance(like, DTensor)
        here = whole.detach().to(like.device)
        return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)

    @staticmethod
    def _local(value: Tensor) -> Tensor:
        assert isinstance(value, DTensor)
        return value.to_local()


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


class _Shelf(nn.Module):
    """Copies of parameters with which a step runs in the place of its model's own."""

    def __init__(self, step: TrainStep, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self._names = tuple(parameters)
        self._call = lambda weights, *args: functional_call(step, weights, *args)
        for name, own in parameters.items():
            copy = nn.Parameter(own.detach().clone(), requires_grad=own.requires_grad)
            self.register_parameter(self._key(name), copy)

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters as they are now, by their names in the model."""
        return {name: self.get_parameter(self._key(name)) for name in self._names}

    def forward(self, *args: Any, **options: Any) -> Any:
        weights = {f"model.{name}": parameter for name, parameter in self.named().items()}
        return self._call(weights, args, options)

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")  # names of parameters have no dots


class FullyShardedStrategy(DDPStrategy):
    """Fabric's DDP, with parameters that FSDP2 divides among the processes.

    Fabric's own strategies for it want GPUs, or start processes by running the program again.
    """

    def __init__(self, start_method: Literal["popen", "spawn"] = "popen"):
        super().__init__(start_method=start_method)
        self._backward_sync_control = _GradientExchange()

    def setup_module(self, module: nn.Module) -> Any:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        return fully_shard(module, mesh=mesh)


class _GradientExchange(_BackwardSyncControl):
    @contextmanager
    def no_backward_sync(self, module: nn.Module, enabled: bool) -> Iterator[None]:
        """Within it gradients wait on their process if `enabled`."""
        sharded = cast(FSDPModule, module)
        sharded.set_requires_gradient_sync(not enabled)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)


def undividable(model: nn.Module, plan: Iterable[PhasePlan], processes: int) -> list[str]:
    """Why FSDP cannot divide the weights of a model for what the phases do with them."""
    problems = [
        f"hardware.strategy: fsdp divides weights along their first dimension, and the model's "
        f"'{name}' has none. Use hardware.strategy=ddp, or give it one dimension of size 1."
        for name, parameter in model.named_parameters()
        if parameter.ndim == 0
    ]
    kinds = dict.fromkeys(str(parameter.dtype) for parameter in model.parameters())
    if len(kinds) > 1:
        problems.append(
            f"hardware.strategy: fsdp needs weights of one type, and the model has "
            f"{' and '.join(kinds)}. Use hardware.strategy=ddp."
        )
    for phase in plan:
        problems += [
            f"hardware.strategy: fsdp cannot divide '{name}', a matrix of {len(parameter)} rows "
            f"that {type(phase.optimizer).__name__} takes as a whole, among {processes} processes. "
            f"Use hardware.strategy=ddp, or optimizer.adamw=[{name}]."
            for name, parameter in model.named_parameters()
            if phase.optimizer.as_matrix(name, parameter)
            and len(parameter) < processes
            and not phase.frozen(name)
        ]
    return list(dict.fromkeys(problems))
