"""Pure functions over whole, time-major sequences.

Each one has a fused implementation and a step-by-step `*_reference` that defines its results.
Numba, which compiles the CPU kernels, is imported at the first call.
"""

from neuro.ops.cfc import cfc as cfc
from neuro.ops.cfc import cfc_reference as cfc_reference
from neuro.ops.dendrite import DendriteOutput as DendriteOutput
from neuro.ops.dendrite import DendriteStep as DendriteStep
from neuro.ops.dendrite import Solver as Solver
from neuro.ops.dendrite import dendrite as dendrite
from neuro.ops.dendrite import dendrite_reference as dendrite_reference
from neuro.ops.dendrite import dendrite_step as dendrite_step
from neuro.ops.dual_lif import DualLIFOutput as DualLIFOutput
from neuro.ops.dual_lif import DualLIFState as DualLIFState
from neuro.ops.dual_lif import Merge as Merge
from neuro.ops.dual_lif import dual_lif as dual_lif
from neuro.ops.dual_lif import dual_lif_reference as dual_lif_reference
from neuro.ops.lif import LIFOutput as LIFOutput
from neuro.ops.lif import Reset as Reset
from neuro.ops.lif import lif as lif
from neuro.ops.lif import lif_reference as lif_reference
from neuro.ops.multipliers import NOCCOutput as NOCCOutput
from neuro.ops.multipliers import NOCCState as NOCCState
from neuro.ops.multipliers import WICCOutput as WICCOutput
from neuro.ops.multipliers import nocc as nocc
from neuro.ops.multipliers import nocc_step as nocc_step
from neuro.ops.multipliers import wicc as wicc
from neuro.ops.multipliers import wicc_step as wicc_step
from neuro.ops.neurons import Dynamics as Dynamics
from neuro.ops.neurons import NeuronOutput as NeuronOutput
from neuro.ops.neurons import NeuronState as NeuronState
from neuro.ops.neurons import neurons as neurons
from neuro.ops.neurons import neurons_reference as neurons_reference
from neuro.ops.scan import exponential_trace as exponential_trace
from neuro.ops.scan import exponential_trace_reference as exponential_trace_reference
from neuro.ops.scan import linear_scan as linear_scan
from neuro.ops.scan import linear_scan_reference as linear_scan_reference
from neuro.ops.selective_scan import SelectiveScanOutput as SelectiveScanOutput
from neuro.ops.selective_scan import selective_scan as selective_scan
from neuro.ops.selective_scan import selective_scan_reference as selective_scan_reference
from neuro.ops.sources import SourceKind as SourceKind
from neuro.ops.sources import depends_on_state as depends_on_state
from neuro.ops.sources import source_function as source_function
from neuro.ops.surrogate import Surrogate as Surrogate
from neuro.ops.surrogate import SurrogateKind as SurrogateKind
from neuro.ops.surrogate import spike as spike
from neuro.ops.surrogate import surrogate_derivative as surrogate_derivative
