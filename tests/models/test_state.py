"""States of all models: batch dimension first, and generic operations."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import neuro.models
from neuro.errors import CheckpointError
from neuro.layers.adaptive import AdaptiveNeuron, LearnedLIFNeuron
from neuro.layers.hybrid_block import ClosedForm
from neuro.models import state as states
from neuro.models.base import CoreModel
from neuro.models.gru import GRU
from neuro.models.language.gru_lm import GRULM
from neuro.models.language.transformer_lm import TransformerLM
from neuro.models.liquid import LiquidNetwork
from neuro.models.lithography.base import ImageModel
from neuro.models.mlp import MLP
from neuro.models.pixels import Pixels
from neuro.models.rsnn import RSNN
from neuro.models.soen.architecture import LAYERS
from neuro.models.spiking import SpikingNetwork
from neuro.models.spiking_cnn import SpikingCNN
from neuro.ops.fixed_point import FixedPoint
from tests.fakes import FakeData
from tests.language import memory_lm, token_spec, tokens
from tests.learning.terms import Rings
from tests.models.test_hybrid import hybrid
from tests.networks import MODELS, network
from tests.soen import soen
from tests.test_docs import blocks

SPEC = FakeData().spec("fast")


def documented() -> CoreModel:
    """The model of docs/extending.md."""
    space: dict[str, Any] = {}
    exec(blocks("docs/extending.md")["my_lab/rates.py"], space)
    model: CoreModel = space["RateNetwork"](SPEC, 5)
    return model


def layered(kind: str) -> CoreModel:
    """A SOEN with one layer of a type, recurrent where possible."""
    layers = [
        {"id": 0, "type": "input"},
        {"id": 1, "type": kind, "params": {"dim": 3}},
        {"id": 2, "type": "dendrite"},
    ]
    return soen(layers, [{"from": i, "to": i + 1, "type": "dense"} for i in (0, 1)], task=SPEC)


MODELS_HERE: dict[str, Callable[[], CoreModel]] = {
    "docs/extending.md": documented,
    "pixels": partial(Pixels, SPEC),
    **{kind: partial(network, kind) for kind in MODELS},
    "integers": partial(network, "lif", fixed_point=FixedPoint(weight_bits=5, input_bits=5)),
    "learned gate": partial(network, "ltgate", gate="learned", readout="linear"),
    **{f"soen {kind}": partial(layered, kind) for kind in LAYERS if kind != "input"},
    # spans of the sequences' length, because sequences can only be reset at the start of a span
    "memory_lm": partial(memory_lm, span=5),
    "mlp": partial(MLP, SPEC, (5,)),
    "gru": partial(GRU, SPEC, units=5),
    "cfc": partial(LiquidNetwork, SPEC, ClosedForm(5, mixed_memory=True)),
    "rsnn": partial(RSNN, SPEC, AdaptiveNeuron(), hidden=(6, 5), delays_ms=2.0),
    **{
        f"rsnn {kind}": partial(
            RSNN, SPEC, AdaptiveNeuron(), hidden=(6, 5), delays_ms=2.0, delay_kind=kind
        )
        for kind in ("axonal", "synaptic")
    },
    "scnn": partial(
        SpikingCNN, SPEC, LearnedLIFNeuron(), (3,), (2,), 5, recurrent=True, readout_tau_ms=9.0
    ),
    "transformer_lm": partial(TransformerLM, token_spec(), dim=8, layers=2, heads=2, window=4),
    "gru_lm": partial(GRULM, token_spec(), dim=6),
    "hybrid": partial(hybrid, "bidirectional", SPEC),
    "hybrid_lm": partial(hybrid, "parallel"),
}


def inputs_of(name: str, seed: int = 0) -> Tensor:
    """A batch that a model of MODELS_HERE can process."""
    return tokens(4, 5, seed) if name.endswith("_lm") else frames(seed=seed)


def frames(samples: int = 4, steps: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(samples, steps, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def equal(one: Any, other: Any) -> bool:
    """Whether two states and their names are bit-identical."""
    first, second = states.named_tensors(one), states.named_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def close(one: Any, other: Any) -> None:
    for a, b in zip(states.tensors_of(one), states.tensors_of(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_model_is_tested() -> None:
    for found in pkgutil.walk_packages(neuro.models.__path__, "neuro.models."):
        importlib.import_module(found.name)
    own = {c for c in subclasses(CoreModel) if c.__module__.startswith("neuro.")}
    # models of images have no state (tests/models/lithography); SpikingNetwork is a base class
    concrete = {cls for cls in own if not inspect.isabstract(cls) and cls is not SpikingNetwork}
    concrete = {cls for cls in concrete if not issubclass(cls, ImageModel)}
    assert concrete <= {type(make()) for make in MODELS_HERE.values()}


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


@pytest.mark.parametrize("name", MODELS_HERE)
@torch.no_grad()
def test_a_state_has_the_batch_first_and_its_sequences_are_independent(name: str) -> None:
    model = MODELS_HERE[name]().eval()
    assert list(states.misshapen_state(model)) == []
    initial = model.initial_state(4)
    inputs = inputs_of(name)
    before = model(inputs, dt_ms=1.0).state
    shapes = {n: x.shape for n, x in states.named_tensors(initial).items()}
    assert {n: x.shape for n, x in states.named_tensors(before).items()} == shapes
    kept = states.map_state(Tensor.clone, before)
    later = inputs_of(name, seed=1)
    out = model(later, before, dt_ms=1.0)
    assert equal(before, kept)  # a forward pass does not mutate the given state

    rows = torch.tensor([2, 0])
    some = model(later[rows], states.select(before, rows), dt_ms=1.0)
    torch.testing.assert_close(some.values, out.values[rows], rtol=1e-4, atol=1e-5)
    close(some.state, states.select(out.state, rows))

    chosen = torch.tensor([True, False, False, True])
    reset = model(later, states.reset(before, initial, chosen), dt_ms=1.0)
    fresh = model(later, dt_ms=1.0)
    torch.testing.assert_close(reset.values[chosen], fresh.values[chosen], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reset.values[~chosen], out.values[~chosen], rtol=1e-4, atol=1e-5)

    halves = states.concat(states.select(before, slice(1)), states.select(before, slice(1, None)))
    assert equal(halves, before)
    assert bool(states.finite(before).all()) if shapes else True


class Pair(NamedTuple):
    a: Tensor
    b: Any


def nested() -> Any:
    return Pair(torch.arange(6.0).view(3, 2), {"x": (torch.arange(3), None), "y": [torch.ones(3)]})


def test_a_count_is_shared_by_all_sequences() -> None:
    state, initial = Pair(torch.arange(3.0), 7), Pair(torch.zeros(3), 0)
    assert states.select(state, slice(2)).b == 7
    assert states.concat(state, initial).b == 7
    assert states.reset(state, initial, torch.tensor([True, False, True])).b == 7
    named = states.named_tensors(state)
    assert named["b"].tolist() == [7, 7, 7]
    assert equal(states.with_tensors(initial, named), state)
    with pytest.raises(CheckpointError, match="'b' is a number, the checkpoint holds nothing"):
        states.with_tensors(initial, {"a": named["a"]})


def test_structure_and_names_are_kept() -> None:
    state = nested()
    assert list(states.named_tensors(state)) == ["a", "b.x.0", "b.y.0"]
    doubled = states.map_state(lambda x: 2 * x, state)
    assert type(doubled) is Pair and type(doubled.b["x"]) is tuple and doubled.b["x"][1] is None
    assert equal(states.map_state(torch.add, state, state), doubled)
    assert equal(
        states.with_tensors(states.select(state, slice(1)), states.named_tensors(state)), state
    )
    assert list(states.named_tensors(torch.ones(2))) == [""]
    assert states.named_tensors(()) == states.named_tensors(None) == {}


def test_invalid_states_are_reported() -> None:
    with pytest.raises(TypeError, match=r"'b\.0' is of type float; a state consists of tensors"):
        states.named_tensors(Pair(torch.ones(1), (3.0,)))
    named = states.named_tensors(nested())
    with pytest.raises(CheckpointError, match=r"state 'a' is \(3, 2\), .* holds nothing"):
        states.with_tensors(nested(), {n: x for n, x in named.items() if n != "a"})


def test_rows_that_are_not_finite_are_found() -> None:
    state = nested()
    state.a[1, 0] = float("nan")
    assert states.finite(state).tolist() == [True, False, True]
    fixed = states.reset(state, nested(), ~states.finite(state))
    assert equal(fixed, nested())


def test_a_state_with_the_batch_elsewhere_is_reported() -> None:
    class Layered(Rings):
        def initial_state(self, batch_size: int) -> Any:
            return torch.zeros(1, batch_size, self.RING)

    (problem,) = states.misshapen_state(Layered())
    assert "Layered.initial_state has the shape (1, 3, 4) for a batch of 3" in problem
