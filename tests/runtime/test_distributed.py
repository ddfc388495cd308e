"""Statistics of a batch that two processes share are those of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from neuro.data.base import Batch
from neuro.learning.rules.hlop import HLOPSubspace
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import DeltaRule
from neuro.runtime.distributed import batch_means, gathered, occurring
from tests.networks import network

#: a term, and the network that it is for
RULES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "hebbian": (Hebbian(eta_v=0.1), "ltgate", {}),
    "gate variance": (GateVariance(), "ltgate", {}),
    "delta": (DeltaRule(present_only=True), "lif", {"readout": "linear"}),
    "subspace": (HLOPSubspace(), "hlop", {"lateral_neurons": 2}),
}


def results(begin: int, end: int) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients and buffer updates of every rule for some samples of a batch of seven."""
    generator = torch.Generator().manual_seed(1)
    batch = Batch(
        3 * torch.rand(7, 1, 1, 6, 6, generator=generator)[begin:end],
        torch.tensor([0, 1, 1, 1, 1, 2, 2])[begin:end],
        1.0,
        6,
    )
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, (term, kind, options) in RULES.items():
        model = network(kind, **options)
        with torch.no_grad():
            output = model(batch.sequence(), dt_ms=1.0, record=term.records(model))
            output = output._replace(values=output.values.mean(1))
        result = term(model, batch, output)
        if result.loss.requires_grad:
            result.loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[name] = gradients | {n: x.value for n, x in result.updates.items()}
        assert any(value.abs().max() > 0 for value in found[name].values()), name
    return found


def share(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)  # the parent's OpenMP threads are not there after a fork
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    begin, end = ((0, 4), (4, 7))[rank]
    (mean,) = batch_means([torch.tensor([float(rank)])], end - begin)
    assert mean == pytest.approx(3 / 7)
    assert occurring(torch.tensor([rank]), 3).tolist() == [True, True, False]
    assert gathered(rank) == [0, 1]
    torch.save(results(begin, end), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_rules_of_two_shares_are_those_of_the_batch(tmp_path: Path) -> None:
    mp.start_processes(
        share, args=(f"{tmp_path}/store", str(tmp_path)), nprocs=2, start_method="fork"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, values in results(0, 7).items():
        for key, whole in values.items():
            joint = (4 * first[name][key] + 3 * second[name][key]) / 7
            torch.testing.assert_close(joint, whole, rtol=1e-4, atol=1e-6, msg=f"{name}: {key}")


def test_one_process_has_its_own_means_without_a_gradient() -> None:
    value = torch.ones(2, requires_grad=True)
    (mean,) = batch_means([2 * value], 3)
    assert mean.tolist() == [2.0, 2.0] and not mean.requires_grad
    assert occurring(torch.tensor([2, 2]), 3).tolist() == [False, False, True]
