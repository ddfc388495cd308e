"""Totals and means over inferences."""

from __future__ import annotations

from neuro.hardware.loihi2.counts import LayerCounts, LayerTotals


def test_totals_per_inference() -> None:
    totals = LayerTotals("layer", 7, 4, 40, 8, 12, 0, 20, 400, 280)
    assert (totals + totals).per_inference() == totals.per_inference()
    assert totals.per_inference() == LayerCounts("layer", 2, 3, 0, 5, 100, 70, 7, 10)
