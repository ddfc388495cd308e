"""Measures of continual learning against cases worked out by hand."""

from __future__ import annotations

import pytest

from neuro.learning.continual.metrics import continual_metrics, later_tasks, scalars


def test_three_tasks_in_turn():
    found = continual_metrics(
        ["a", "b", "c"],
        [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.8, 0.5, 0.9]],
        [["a"], ["b"], ["c"]],
        {"b": 0.1, "c": 0.2},
    )
    assert found.acc == pytest.approx((0.8 + 0.5 + 0.9) / 3)
    assert found.bwt == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.fwt == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.8) + (0.8 - 0.5)) / 2)
    assert scalars(found) == {
        f"continual/{n}": getattr(found, n)
        for n in ("acc", "bwt", "fwt", "forgetting", "learning_acc", "recency")
    }
    assert found.learning_acc == pytest.approx((0.9 + 0.8 + 0.9) / 3)
    assert found.recency == pytest.approx(0.9 - (0.8 + 0.5) / 2)


def test_forgetting_is_relative_to_the_earlier_best_and_may_be_negative():
    matrix = [[0.5, 0.0], [0.9, 0.5], [0.6, 0.9]]
    found = continual_metrics(["a", "b"], matrix, [["a"], ["b"], ["b"]])
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.5 - 0.9)) / 2)
    assert found.bwt == pytest.approx(((0.6 - 0.5) + (0.9 - 0.5)) / 2)


def test_one_phase_has_no_backward_or_forward_transfer():
    found = continual_metrics(["a", "b"], [[0.9, 0.4]], [["a"]], {})
    assert found.acc == 0.9  # b is never learned
    assert found.bwt is found.fwt is found.forgetting is None
    assert scalars(found) == {"continual/acc": 0.9, "continual/learning_acc": 0.9}


def test_joint_training_and_a_repeated_task():
    found = continual_metrics(["a", "b"], [[0.9, 0.8], [0.7, 0.6]], [["a", "b"], ["a"]])
    assert found.bwt == pytest.approx(((0.7 - 0.9) + (0.6 - 0.8)) / 2)
    assert found.fwt is None


def test_without_the_initial_accuracies_there_is_no_forward_transfer():
    found = continual_metrics(["a", "b"], [[1.0, 0.5], [1.0, 1.0]], [["a"], ["b"]])
    assert found.fwt is None and found.initial is None
    assert found.matrix == [[1.0, 0.5], [1.0, 1.0]]


def test_later_tasks_are_those_first_learned_after_the_first_phase():
    assert later_tasks(["a", "b", "c", "d"], [["b"], ["a", "b"], ["c"]]) == ["a", "c"]
    assert later_tasks(["a", "b"], [["a", "b"]]) == []
