"""Initial weights of embeddings and linear maps."""

from __future__ import annotations

from torch import Tensor, nn

#: standard deviation of initial embeddings and learned vectors, as in GPT-2 (Radford et al. 2019)
INITIAL_STD = 0.02


def initialise(weight: Tensor, inputs: int, gain: float = 1.0) -> None:
    """Draw a matrix of `inputs` rows or columns from N(0, gain^2 / inputs), in place.

    With gain 1, outputs have the mean square of the inputs at any width (LeCun et al. 1998). A
    constant of 0.02, GPT-2's for a width of 768, leaves gates and read-outs of narrow columns
    almost independent of their inputs, and memories almost without gradients at first.
    """
    nn.init.normal_(weight, std=gain * inputs**-0.5)
