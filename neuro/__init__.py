"""neuro: experiments with brain-inspired networks, from a config to a chip.

Importing the package imports nothing heavy: composing a config must not wait for torch.
"""

__version__ = "0.1.0"
