"""Checkpoints: round trips, detection of damage, and a valid file at any moment."""

from __future__ import annotations

import math
import pickle
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from neuro.errors import CheckpointError
from neuro.io import checkpoint, tensor_file
from neuro.models.weights import load_weights, load_what_fits


class State(NamedTuple):
    u: torch.Tensor
    name: str


def test_nested_structures_come_back(tmp_path):
    state = {
        "named": State(torch.arange(3.0), "x"),
        "nested": {"list": [1, 2.5, None, True, ("a",)], 3: {"deep": torch.ones(2, 2)}},
        "tuple": (1, [2, (3,)]),
        "empty": [{}, [], ()],
        "text": 'ä\n"quoted"',
    }
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    assert type(loaded["named"]) is tuple
    assert torch.equal(loaded["named"][0], state["named"].u) and loaded["named"][1] == "x"
    assert loaded["nested"]["list"] == [1, 2.5, None, True, ("a",)]
    assert type(loaded["nested"]["list"][0]) is int and loaded["nested"]["list"][3] is True
    assert torch.equal(loaded["nested"][3]["deep"], torch.ones(2, 2))
    assert loaded["tuple"] == (1, [2, (3,)])
    assert loaded["empty"] == [{}, [], ()]
    assert loaded["text"] == state["text"]
    assert list(loaded) == list(state)


def test_floats_come_back_to_the_bit_and_not_finite_ones_too(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, [0.1, 1e-308, math.nan, math.inf, -math.inf, 2**63])
    loaded = checkpoint.load(path)
    assert loaded[:2] == [0.1, 1e-308]
    assert math.isnan(loaded[2])
    assert loaded[3:] == [math.inf, -math.inf, 2**63]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 2).to(torch.bfloat16),
        torch.randn(3).half(),
        torch.randn(2).double(),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.uint8),
        torch.tensor(-7),
        torch.zeros(0),
        torch.zeros(0, 3, dtype=torch.bfloat16),
        torch.randn(4, 3).T,
        torch.randn(4, 6)[::2, 1::2],
        torch.ones(3).expand(2, 3),
        torch.empty_strided((1,), (0,)).fill_(7),  # of a sum over a broadcast
        torch.empty_strided((2, 1), (1, 5)).fill_(7),
        torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
        torch.nn.Parameter(torch.randn(2)),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}".replace("torch.", ""),
)
def test_tensors_of_all_kinds_come_back(tmp_path, tensor):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"t": tensor})
    loaded = checkpoint.load(path)["t"]
    assert loaded.dtype == tensor.dtype and loaded.shape == tensor.shape
    assert torch.equal(loaded, tensor.detach())
    assert not loaded.requires_grad


def test_equal_contents_give_equal_bytes(tmp_path):
    tensors = {f"layer{i}": torch.full((i + 1,), float(i)) for i in range(20)}
    for number in range(5):  # the order of metadata is random, within a process too
        tensor_file.write(tmp_path / str(number), tensors, '{"ü": "\\"\\n"}', kind="k")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    loaded, text = tensor_file.read(tmp_path / "0", kind="k", what="file")
    assert text == '{"ü": "\\"\\n"}' and torch.equal(loaded["layer3"], tensors["layer3"])


def test_tied_tensors_and_views_of_one_storage(tmp_path):
    whole = torch.arange(6.0)
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": whole, "again": whole, "part": whole[2:4]})
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["again"], whole) and torch.equal(loaded["part"], whole[2:4])
    loaded["a"].zero_()
    assert torch.equal(loaded["again"], whole)  # each is a tensor of its own


@pytest.mark.parametrize("bad", [object(), {"x": {1, 2}}, {("a",): 1}, [b"bytes"]])
def test_what_a_checkpoint_cannot_hold_is_refused_at_once(tmp_path, bad):
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        checkpoint.save(tmp_path / "a.safetensors", bad)
    assert not list(tmp_path.iterdir())


def test_saving_does_not_change_what_is_saved(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    state = {"w": weight, "list": [1]}
    checkpoint.save(tmp_path / "a.safetensors", state)
    assert state["w"] is weight and weight.requires_grad and state["list"] == [1]


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for module, name in [
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"t": torch.ones(2), "x": 1})
    assert checkpoint.load(path)["x"] == 1


# -- atomicity --------------------------------------------------------------------------------


def test_the_file_before_becomes_previous(tmp_path):
    path = tmp_path / "last.safetensors"
    for value in (1, 2, 3):
        checkpoint.save(path, value)
    assert checkpoint.load(path) == 3
    assert checkpoint.load(checkpoint.previous(path)) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last.safetensors",
        "previous-last.safetensors",
    ]


@pytest.mark.parametrize("stage", ["write", "sync", "link", "replace 1", "replace 2"])
def test_a_write_that_dies_at_any_stage_leaves_a_loadable_file(tmp_path, monkeypatch, stage):
    """The three replacements are: previous by its new link, then the checkpoint itself."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, 1)
    checkpoint.save(path, 2)
    import os

    real, calls = os.replace, []

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    def replace(*args):
        calls.append(args)
        if stage == f"replace {len(calls)}":
            die()
        real(*args)

    monkeypatch.setattr("os.replace", replace)
    if stage == "write":

        def torn(tensors, filename, metadata):
            save_file(tensors, filename, metadata=metadata)
            filename.write_bytes(filename.read_bytes()[:-20])
            die()

        monkeypatch.setattr(tensor_file, "save_file", torn)
    elif stage == "sync":
        monkeypatch.setattr("os.fsync", die)
    elif stage == "link":
        monkeypatch.setattr("os.link", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, 3)
    monkeypatch.undo()
    assert checkpoint.load(path) == 2
    assert checkpoint.load(checkpoint.previous(path)) in (1, 2)
    checkpoint.save(path, 4)  # and the next write works
    assert checkpoint.load(path) == 4


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    for name in (".last.safetensors.77.tmp", ".tmpAbC", "last.safetensors", "notes.tmp"):
        (tmp_path / name).write_text("x")
    checkpoint.clean(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.safetensors", "notes.tmp"}


def test_kept_copies(tmp_path):
    path = tmp_path / "last.safetensors"
    for step in (5, 10, 200):
        checkpoint.save(path, step)
        checkpoint.keep_copy(path, step, keep=2)
    kept = sorted(tmp_path.glob("step-*"))
    assert [checkpoint.load(p) for p in kept] == [10, 200]
    checkpoint.keep_copy(path, 200, keep=2)  # again at the same step
    assert sorted(tmp_path.glob("step-*")) == kept


# -- damage -----------------------------------------------------------------------------------


def test_one_wrong_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"t": torch.tensor([1.5, -2.0]), "x": [1, "y"]})
    good = path.read_bytes()
    for position in range(len(good)):
        for flip in (0x01, 0x20, 0x80):
            damaged = bytearray(good)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                checkpoint.load(path)
                pytest.fail(f"byte {position} ^ {flip:#x} went unnoticed")


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"t": torch.ones(3)})
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            checkpoint.load(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.safetensors: there is no such checkpoint"):
        checkpoint.load(tmp_path / "a.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of neuro"):
        checkpoint.load(foreign)
    half = tmp_path / "half.safetensors"
    save_file({"w": torch.ones(2)}, half, metadata={"format": "neuro-checkpoint-2"})
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(half)


def test_a_damaged_file_falls_back_to_the_previous_one_and_says_so(tmp_path):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, 1)
    assert checkpoint.load_or_previous(path) == (1, None)
    checkpoint.save(path, 2)
    path.write_bytes(path.read_bytes()[:50])
    value, message = checkpoint.load_or_previous(path)
    assert value == 1
    assert "last.safetensors: damaged" in message
    assert message.endswith("Using previous-last.safetensors instead.")
    checkpoint.previous(path).unlink()
    with pytest.raises(CheckpointError, match=r"last\.safetensors: damaged"):
        checkpoint.load_or_previous(path)


# -- weights ----------------------------------------------------------------------------------


def test_weights_of_another_architecture_are_refused_by_name():
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    weights = {"weight": torch.ones(2, 4), "extra": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights, "some/file")
    text = str(caught.value)
    assert "some/file is from another architecture" in text
    assert "bias: missing, the model expects (2,)" in text
    assert "extra: (1,), unknown to the model" in text
    assert "weight: (2, 4), expected (2, 3)" in text
    assert torch.equal(model.weight, before)


def test_many_differences_are_shown_in_part():
    weights = {f"w{i:02}": torch.ones(1) for i in range(20)}
    with pytest.raises(CheckpointError, match="and 8 more"):
        load_weights(torch.nn.Identity(), weights, "x")


def test_what_fits_is_loaded_and_the_rest_listed():
    model = torch.nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(5), "extra": torch.ones(1)}
    left = load_what_fits(model, weights)
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert left == ["bias: (5,), expected (2,)", "extra: (1,), unknown to the model"]
    load_weights(model, model.state_dict(), "itself")
