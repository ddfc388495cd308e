"""Agreement of kernels that were learned from images with those of the optics.

Images do not determine the kernels phi_k: any unitary mixture of them gives the same images, and so
do conj(phi_k(-f)), because masks are real. Images determine the operator T(f, f') = sum_k phi_k(f)
conj(phi_k(f')), the transmission cross-coefficient, averaged with its mirrored conjugate;
`recovery` compares these operators.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complexfloating[Any, Any]]


class Recovery(NamedTuple):
    """Principal angles in degrees, the smallest first, between the subspaces of the strongest
    kernels; and |T - T_true| / |T_true| in the Frobenius norm.
    """

    angles_deg: NDArray[np.float64]
    operator_error: float


def recovery(learned: Complex, true: Complex, count: int) -> Recovery:
    """Compare kernels `[K, n, n]`, n odd and zero frequency in the middle, of the same tile.

    `count` is the dimension of the subspaces. ValueError if there are fewer kernels.
    """
    n = max(learned.shape[-1], true.shape[-1])
    ours, theirs = (_symmetrised(kernels, n) for kernels in (learned, true))
    if count > min(len(learned), len(true)):
        raise ValueError(f"{count} kernels: there are {len(learned)} learned, {len(true)} true")
    bases = [np.linalg.svd(k, full_matrices=False)[2][:count] for k in (ours, theirs)]
    cosines = np.linalg.svd(bases[0].conj() @ bases[1].T, compute_uv=False)
    operators = [k.T @ k.conj() for k in (ours, theirs)]
    error = np.linalg.norm(operators[0] - operators[1]) / np.linalg.norm(operators[1])
    return Recovery(np.degrees(np.arccos(np.clip(cosines, 0, 1))), float(error))


def _symmetrised(kernels: Complex, n: int) -> Complex:
    """Kernels and their mirrored conjugates over n x n frequencies, as vectors `[2 K, n * n]`."""
    pad = (n - kernels.shape[-1]) // 2
    padded = np.pad(kernels, ((0, 0), (pad, pad), (pad, pad)))
    both = np.concatenate([padded, padded[:, ::-1, ::-1].conj()]) / np.sqrt(2)
    return both.reshape(len(both), -1)
