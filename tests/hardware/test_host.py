"""The host as a target: accuracies as they are, and an honest name."""

from __future__ import annotations

import pytest
import torch

from neuro.hardware.host import Host
from neuro.learning.evaluation import evaluate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from tests.fakes import FakeData, linear


def test_the_host_reports_what_evaluation_finds():
    model, data = linear(), FakeData()
    objective = Objective({"ce": CrossEntropy()})
    Host().check(model, {"fast": data.spec("fast")}, {"fast": 8})
    loaders = {task: data.loader(task, "test", batch_size=3) for task in data.tasks}
    report = Host().evaluate(model, loaders, objective.decode)
    assert report.backend == "host (cpu)"
    for task in data.tasks:
        loader = data.loader(task, "test")
        metrics = evaluate(model, objective, loader, torch.device("cpu")).metrics("accuracy")
        assert report.accuracy[task] == pytest.approx(metrics["accuracy"])
        assert report.details["ms_per_sample"][task] > 0


def test_a_model_without_parameters_runs_too():
    model = linear()
    model.last = torch.nn.Identity()
    model.register_buffer("here", torch.zeros(()))
    loaders = {"fast": FakeData().loader("fast", "test")}
    report = Host().evaluate(model, loaders, lambda values: values.mean(1)[:, :4].argmax(1))
    assert 0 <= report.accuracy["fast"] <= 1
