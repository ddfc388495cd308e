"""memory_lm: sizes, split sequences, causality, and the effect of each memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.config.build import build
from neuro.errors import ConfigError
from neuro.layers.memory import episodic, procedural
from neuro.models import state as states
from neuro.models.language.memory_lm import MemoryLM
from tests.language import END, SMALL, memory_lm, token_spec, tokens
from tests.test_conf import compose

PHASES: dict[str, dict[str, bool]] = {
    "A": {"episodic": False},
    "B": {},
    "C": {"lifelong": True},
}
SIZES = {"a": 56e6, "a_wide": 95e6, "b": 102.7e6, "c": 197e6}


def of_tier(tier: str, vocabulary: int) -> MemoryLM:
    """A model of a shipped configuration on the meta device."""
    node = compose("model=memory_lm", f"model/tier={tier}")["model"]
    with torch.device("meta"):
        model = build(node, MemoryLM, "model", spec=token_spec(vocabulary))
    assert isinstance(model, MemoryLM)
    return model


def with_ends() -> Tensor:
    """Documents that end within, at the end and at the beginning of spans."""
    x = tokens()
    x[0, 7] = x[1, 4] = x[1, 5] = x[2, 9] = x[2, 13] = END
    return x


@torch.no_grad()
def run(model: MemoryLM, x: Tensor, **options: Any) -> Any:
    return model(x, dt_ms=None, **options)


def loss_of(model: MemoryLM, x: Tensor) -> Tensor:
    scores = model(x, dt_ms=None).values
    return F.cross_entropy(scores[:, :-1].flatten(0, 1), x[:, 1:].flatten())


@pytest.mark.parametrize("tier", SIZES)
def test_tiers_have_the_published_numbers_of_parameters(tier: str) -> None:
    found = sum(p.numel() for p in of_tier(tier, 32000).parameters())
    assert found == pytest.approx(SIZES[tier], rel=0.01)


def test_tiny_is_below_a_million_parameters() -> None:
    assert sum(p.numel() for p in of_tier("tiny", 258).parameters()) < 1e6


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("cuts", [[1] * 20, [5, 5, 5, 5], [3, 8, 2, 7], [19, 1]])
def test_a_sequence_in_parts_equals_the_whole(phase: str, cuts: list[int]) -> None:
    model = memory_lm()
    model.set_phase(**PHASES[phase])
    x = with_ends()
    whole = run(model, x)
    state, parts = None, []
    for part in x.split(cuts, 1):
        out = run(model, part, state=state)
        state = out.state
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, whole.state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("changed", [0, 4, 5, 11])
def test_a_token_changes_only_later_scores(phase: str, changed: int) -> None:
    model = memory_lm()
    model.set_phase(**PHASES[phase])
    x = tokens()
    other = x.clone()
    other[:, changed] = other[:, changed] % 10 + 1
    one, two = run(model, x).values, run(model, other).values
    assert torch.equal(one[:, :changed], two[:, :changed])
    differs = (one != two).any(2).any(0)
    assert differs[changed:].all()


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_memories_are_weak_in_the_gates_initially(gain: float) -> None:
    """For inputs of mean square 1, preactivations of the gates have it too."""
    layer = memory_lm(memory_gain=gain).layers[0]
    weight = layer.gates.weight.detach()
    x, memories = weight.split((layer.width, 3 * layer.width + 1), 1)
    assert (memories.std() / x.std()).item() == pytest.approx(gain, rel=0.1)
    assert weight.square().sum(1).mean().item() == pytest.approx(1, rel=0.1)


def test_neuromodulators_are_calibrated_initially() -> None:
    """In the whole model, for any inputs."""
    model = memory_lm(strong=1.0)
    assert model.episodic_memory is not None
    signals = model.procedural_memory.neuromodulator(torch.rand(4, 50, 11))
    torch.testing.assert_close(signals["rate"], torch.full((4, 50, 1), 0.3), rtol=0, atol=0.02)
    torch.testing.assert_close(signals["temperature"], torch.ones(4, 50, 1), rtol=0, atol=0.06)
    signals = model.episodic_memory.neuromodulator(torch.rand(2, 50, 4))
    for name, start, margin in (
        ("rate", 0.3, 0.02),
        ("temperature", 1.0, 0.06),
        ("occupied", 0.5, 0.03),
        ("decay", 0.999, 1e-4),
    ):
        torch.testing.assert_close(
            signals[name], torch.full((2, 50, 1), start), rtol=0, atol=margin
        )


@pytest.mark.parametrize("phase", PHASES)
def test_neuromodulators_get_gradients_of_the_main_loss(phase: str) -> None:
    model = memory_lm()
    model.set_phase(**PHASES[phase])
    loss_of(model, tokens()).backward()
    for name, parameter in model.named_parameters():
        used = phase != "A" or "episodic" not in name
        if "neuromodulator" in name and used:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
            # each signal separately: entries of the last layer's bias
            if name.endswith("out.bias"):
                assert (parameter.grad != 0).all(), name


def test_every_parameter_has_a_gradient() -> None:
    model = memory_lm()
    loss_of(model, tokens()).backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without


def test_eligibilities_of_slots_differ() -> None:
    e = run(memory_lm(), tokens(steps=4)).state.procedural.key_eligibility
    cosines = F.cosine_similarity(e[:, :, :, None], e[:, :, None], dim=-1)
    sizes = e.norm(dim=-1)
    assert (sizes.amax(-1) > 1.2 * sizes.amin(-1)).all()
    assert (cosines[..., ~torch.eye(3, dtype=torch.bool)] < 0.999).any(2).all()


@pytest.mark.parametrize("lifelong", [False, True])
def test_a_new_document_starts_with_seeded_slots_of_zero_strength(lifelong: bool) -> None:
    model = memory_lm()
    model.set_phase(lifelong=lifelong)
    x = tokens(steps=19)
    x[:, 16] = END
    state = run(model, x).state
    memory, seeds = state.procedural, model.procedural_memory.seeds
    assert bool((memory.strengths > 0).all()) == lifelong
    assert torch.equal(memory.keys, seeds.expand_as(memory.keys)) != lifelong
    assert all((torch.pdist(keys) > 0.1).all() for keys in seeds)
    assert bool((state.episodic.strengths > 0).any()) == lifelong


@pytest.mark.parametrize("lifelong", [False, True])
def test_the_past_ends_with_a_document_within_a_span(lifelong: bool) -> None:
    model = memory_lm()
    model.set_phase(lifelong=lifelong)
    one, other = tokens(seed=1), tokens(seed=2)
    one[:, 12] = other[:, 12] = END
    other[:, 13:] = one[:, 13:]
    first, second = run(model, one).values, run(model, other).values
    assert not torch.allclose(first[:, 12], second[:, 12])
    assert torch.equal(first[:, 13:], second[:, 13:]) != lifelong


def test_documents_do_not_end_without_an_end_symbol() -> None:
    x = with_ends()
    assert not torch.equal(run(memory_lm(end=None), x).values, run(memory_lm(), x).values)


def test_a_span_writes_few_episodic_slots() -> None:
    model = memory_lm()
    for spans in (1, 2):
        strengths = run(model, tokens(steps=5 * spans)).state.episodic.strengths
        assert ((strengths > 0).sum(-1) <= 2 * spans).all()
        assert ((strengths > 0).sum(-1) >= 2).all()


def test_novelty_is_not_saturated() -> None:
    records = run(memory_lm(), tokens(steps=40), record=("em/novelty",)).records
    novelty = records["em/novelty"]
    assert novelty.shape == (40, 3, 2)
    assert novelty.min() >= 0 and novelty.max() < 0.9
    assert novelty.std() > 0.02


def test_generation_writes_memories_and_does_not_mutate_the_given_state() -> None:
    model = memory_lm()
    start = run(model, tokens(steps=5)).state
    kept = states.map_state(Tensor.clone, start)
    state = start
    for token in tokens(steps=5, seed=3).split(1, 1):
        state = run(model, token, state=state).state
    torch.testing.assert_close(start, kept, rtol=0, atol=0)
    assert (state.procedural.strengths > start.procedural.strengths).any()
    assert (state.episodic.strengths != start.episodic.strengths).any()


def test_strengths_stay_within_their_budgets() -> None:
    model = memory_lm(episodic=episodic.Episodic(slots=12, dim=6, read=3, write=6))
    with torch.no_grad():
        for memory in (model.procedural_memory, model.episodic_memory):
            memory.neuromodulator.out.bias.fill_(5.0)  # strong writes, no decay
    records = run(model, tokens(steps=300), record=model.recordable).records
    assert 0.9 < records["pm/budget_use"].max() <= 1.0 + 1e-5
    assert 0.5 < records["em/budget_use"].max() <= 1.0 + 1e-5


@pytest.mark.parametrize("flag", ["episodic", "use_em", "use_pm", "use_wm"])
def test_each_memory_can_be_switched_off(flag: str) -> None:
    model = memory_lm()
    x = tokens()
    with_it = run(model, x).values
    model.set_phase(**{flag: False})
    assert not torch.allclose(run(model, x).values, with_it, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"span": 6},
        {"tied": True},
        {"working": SMALL["working"].__class__(window=6, dim=8, heads=2, rotary=False)},
        {"working": SMALL["working"].__class__(window=3, dim=8, heads=2)},
        {"procedural": procedural.Procedural(slots=3, hidden=4.0)},
        {"episodic": episodic.Episodic(slots=12, dim=6, read=3, write=2, spread=3)},
        {"episodic": episodic.Episodic(slots=12, dim=6, read=2, write=2)},
        {"decoder": SMALL["decoder"].__class__(dim=8, heads=2, layers=1, queries=1)},
    ],
    ids=str,
)
def test_every_option_has_an_effect(options: dict[str, Any]) -> None:
    base, changed = memory_lm(), memory_lm(**options)
    same, new = base.state_dict(), changed.state_dict()
    fitting = {n: same[n] for n in same.keys() & new.keys() if same[n].shape == new[n].shape}
    changed.load_state_dict(fitting, strict=False)
    x = tokens()
    assert not torch.equal(run(base, x).values, run(changed, x).values)


def test_records_have_their_shapes() -> None:
    model = memory_lm()
    x = tokens(steps=12)
    out = run(model, x, record=model.recordable)
    shapes = {name: tuple(record.shape) for name, record in out.records.items()}
    assert shapes == {
        "surprise": (12, 3),
        "gates/saturation": (12, 3),
        "pm/budget_use": (3, 3, 2, 2),
        "pm/commits": (3, 3, 2, 2),
        "em/budget_use": (3, 3, 2),
        "em/novelty": (12, 3, 2),
    }
    assert torch.equal(out.values, run(model, x).values)
    log_p = out.values.log_softmax(-1)
    expected = -log_p[:, :-1].gather(2, x[:, 1:, None])[..., 0].T
    torch.testing.assert_close(out.records["surprise"][1:], expected)
    with pytest.raises(ConfigError, match=r"records no 'surprises'.*Did you mean 'surprise'"):
        run(model, x, record=("surprises",))


def test_a_phase_with_episodes_needs_a_model_with_them() -> None:
    model = memory_lm(episodic=None)
    assert "em/novelty" not in model.recordable
    model.set_phase(episodic=False, lifelong=True)
    assert run(model, tokens()).values.isfinite().all()
    with pytest.raises(ConfigError, match="has no episodic memory; give model.tier.episodic"):
        model.set_phase(episodic=True)
    with pytest.raises(ConfigError, match="lifelong: got 3; expected true or false"):
        model.set_phase(lifelong=3)


def test_narrow_precision() -> None:
    model = memory_lm(strong=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, with_ends())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(loss.float(), loss_of(model, with_ends()), rtol=0.02, atol=0.02)


def test_compilation_without_graph_breaks_gives_the_same_values() -> None:
    """Traced and run without code generation, which would take minutes on a CPU."""
    model = memory_lm()
    compiled = torch.compile(model, backend="eager", dynamic=False)
    x = with_ends()
    torch.testing.assert_close(compiled(x, dt_ms=None).values, model(x, dt_ms=None).values)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"columns": 3}, r"columns: got 3; expected a divisor of dim \(16\)"),
    ],
)
def test_invalid_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_lm(**options)


def test_invalid_settings() -> None:
    with pytest.raises(ValueError, match="slots: got 4; a span reads 3 and writes 3"):
        episodic.Episodic(slots=4, dim=6, read=3, write=3)
    with pytest.raises(ValueError, match="heads: got 3; expected a divisor of dim"):
        SMALL["decoder"].__class__(dim=8, heads=3, layers=1)
    with pytest.raises(
        ValueError, match=r"heads: got 8; expected a divisor of dim \(8\) into parts"
    ):
        SMALL["working"].__class__(window=6, dim=8, heads=8)
