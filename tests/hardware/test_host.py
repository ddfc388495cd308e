"""The host as a target: measured results are reported without another evaluation."""

from __future__ import annotations

from neuro.hardware.base import Measured
from neuro.hardware.host import Host
from neuro.learning.objective import Objective
from tests.fakes import FakeData, linear


def test_the_host_reports_what_was_measured():
    model, data = linear(), FakeData()
    model.forward = None  # an evaluation would fail
    loaders = {task: data.loader(task, "test") for task in data.tasks}
    measured = {
        "fast": Measured({"accuracy": 0.5, "loss": 1.0}, 2.0),
        "slow": Measured({"accuracy": 1.0, "loss": 2.0}),
    }
    Host().check(model, {"fast": data.spec("fast")}, {"fast": 8})
    report = Host().evaluate(model, loaders, Objective({}), measured)
    assert report.backend == "host (cpu)"
    assert report.scores == {"fast": {"accuracy": 0.5}, "slow": {"accuracy": 1.0}}
    assert report.details == {"ms_per_sample": {"fast": 2.0}}
