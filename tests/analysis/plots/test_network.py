"""The plot of a network shows its layers, connections and weights."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.analysis.plots.network import PlottedConnection, PlottedLayer, network

LAYERS = {"in": PlottedLayer("Input", 3), "out": PlottedLayer("Dendrite", 2)}


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_layers_and_densities_are_labelled():
    weight = np.array([[0.5, np.nan, -1.0], [np.nan, np.nan, 0.25]])
    figure = network(LAYERS, [PlottedConnection("in", "out", weight)], "a net")
    assert figure.get_suptitle() == "a net"
    assert {"in", "out", "Input\n3 nodes", "Dendrite\n2 nodes", "50 %"} <= set(texts(figure))


def test_matrices_share_a_scale_and_show_missing_connections():
    connections = [
        PlottedConnection("in", "out", np.array([[0.5, np.nan, -1.0], [0.0, 0.1, 0.2]])),
        PlottedConnection("out", "out", np.array([[0.0, 0.5], [np.nan, 0.0]])),
    ]
    figure = network(LAYERS, connections)
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert [image.get_clim() for image in images] == [(-1.0, 1.0)] * 2
    assert images[0].get_array().mask.tolist() == [[False, True, False], [False] * 3]
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.images]
    assert titles == ["in to out", "out to out"]


@pytest.mark.parametrize(("source", "target"), [("in", "out"), ("out", "in"), ("out", "out")])
def test_every_connection_is_an_arrow(source, target):
    widths = {"in": 3, "out": 2}
    weight = np.ones((widths[target], widths[source]))
    figure = network(LAYERS, [PlottedConnection(source, target, weight)])
    kinds = [type(patch).__name__ for patch in figure.axes[0].patches]
    assert kinds.count("FancyArrowPatch") == 1 and kinds.count("FancyBboxPatch") == 2
