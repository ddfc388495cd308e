"""The first difference between two recordings."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.hardware.loihi2.comparison import Difference, first_difference


def test_first_difference_is_ordered_by_step_then_by_layer() -> None:
    one = {name: np.zeros((5, 3, 2, 4, 4), np.uint8) for name in ("a", "b", "c")}
    other = {name: x.copy() for name, x in one.items()}
    assert first_difference(one, other) is None
    other["a"][4, 0] = 1
    other["c"][3, 0, 0, 0, 0] = 1
    other["b"][3, 1, 1, 2, 3] = 1
    other["b"][3, 2] = 1
    found = first_difference(one, other)
    assert found == Difference(3, "b", 1, (1, 2, 3), (0, 1))
    assert str(found) == "step 3, layer 'b', sample 1, neuron [1, 2, 3]: 0 and 1"
    with pytest.raises(ValueError, match="layers differ: a, b, c; and a, b"):
        first_difference(one, {name: one[name] for name in ("a", "b")})
    with pytest.raises(ValueError, match=r"shapes of layer 'a' differ: \[5, 3.* and \[4, 3"):
        first_difference(one, other | {"a": other["a"][:4]})
