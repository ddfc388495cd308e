"""Comparison of optical kernels: invariances, and sensitivity to errors."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.analysis.optics import Complex, recovery
from neuro.data.simulated.optics import Optics


def true(count: int = 12) -> Complex:
    kernels: Complex = Optics(defocus_nm=80.0).kernels(800.0, count).values.numpy()
    return kernels


def random_unitary(size: int) -> Complex:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))
    unitary: Complex = np.linalg.qr(matrix)[0]
    return unitary


def test_the_comparison_is_invariant_to_equivalent_kernels() -> None:
    kernels = true()
    mixed = np.einsum("jk,kyx->jyx", random_unitary(len(kernels)), kernels)
    mirrored = kernels[:, ::-1, ::-1].conj()
    wider = np.pad(kernels, ((0, 0), (2, 2), (2, 2)))
    for same in (kernels, mixed, mirrored, wider):
        found = recovery(same, kernels, 4)
        assert found.operator_error < 1e-10
        assert found.angles_deg.max() < 1e-3


def test_other_kernels_differ() -> None:
    kernels = true()
    found = recovery(kernels[:4], kernels, 4)
    assert found.angles_deg.max() < 1 and found.operator_error > 0.01  # some kernels are missing
    other = Optics(na=0.6).kernels(800.0, 12).values.numpy()
    found = recovery(other, kernels, 4)
    assert found.angles_deg.max() > 5 and found.operator_error > 0.1
    rng = np.random.default_rng(1)
    errors = [
        recovery(kernels + size * rng.standard_normal(kernels.shape), kernels, 4).operator_error
        for size in (0.01, 0.1)
    ]
    assert errors[0] < errors[1]


def test_too_few_kernels() -> None:
    with pytest.raises(ValueError, match="5 kernels: there are 3 learned, 12 true"):
        recovery(true(3), true(), 5)
