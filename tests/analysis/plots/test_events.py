"""The plot of 2-D events shows parts of a sample with the balance of its polarities."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.analysis.plots.events import event_frames


def test_events_are_summed_over_parts() -> None:
    events = np.zeros((20, 2, 3, 4))
    events[0, 1, 0, 1] = events[1, 1, 0, 1] = 1
    events[19, 0, 2, 3] = 1
    figure = event_frames(events, dt_ms=2.0)
    pictures = [ax.images[0].get_array() for ax in figure.axes]
    assert len(pictures) == 8
    assert pictures[0] is not None and pictures[0][0, 1] == 2
    assert pictures[-1] is not None and pictures[-1][2, 3] == -1
    assert figure.axes[0].get_title(loc="left") == "0 to 4 ms"


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (5, 5), (9, 8)])
def test_short_samples_have_fewer_parts(steps: int, parts: int) -> None:
    figure = event_frames(np.ones((steps, 1, 2, 2)), dt_ms=1.0)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == parts
    total = sum(float(np.asarray(ax.images[0].get_array()).sum()) for ax in shown)
    assert total == 4 * steps
