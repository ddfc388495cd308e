"""Kernels as pure functions over whole, time-major sequences.

Each one has a fused version, which is the default, and beside it a short step-by-step `*_reference`
that defines it. Numba, which compiles the CPU versions, is imported at the first call.
"""

from neuro.ops.dual_lif import DualLIFOutput as DualLIFOutput
from neuro.ops.dual_lif import DualLIFState as DualLIFState
from neuro.ops.dual_lif import Merge as Merge
from neuro.ops.dual_lif import dual_lif as dual_lif
from neuro.ops.dual_lif import dual_lif_reference as dual_lif_reference
from neuro.ops.lif import LIFOutput as LIFOutput
from neuro.ops.lif import Reset as Reset
from neuro.ops.lif import lif as lif
from neuro.ops.lif import lif_reference as lif_reference
from neuro.ops.scan import exponential_trace as exponential_trace
from neuro.ops.scan import exponential_trace_reference as exponential_trace_reference
from neuro.ops.scan import linear_scan as linear_scan
from neuro.ops.scan import linear_scan_reference as linear_scan_reference
from neuro.ops.surrogate import Surrogate as Surrogate
from neuro.ops.surrogate import SurrogateKind as SurrogateKind
from neuro.ops.surrogate import spike as spike
from neuro.ops.surrogate import surrogate_derivative as surrogate_derivative
