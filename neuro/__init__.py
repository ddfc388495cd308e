"""neuro: experiments with brain-inspired networks, from a config to a chip.

Importing the package imports nothing heavy: composing a config must not wait for torch.
"""

import os

# An OpenMP thread of torch spins while it waits for its next task, by default for some
# milliseconds. It occupies the core on which a kernel of `neuro.ops` has to run, which costs a
# third of a training step on two cores. Some tenths of a millisecond are enough between torch's
# own operations.
# GNU's library reads this when torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

__version__ = "0.1.0"
