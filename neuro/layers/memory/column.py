"""A layer of the columns: an affine recurrence with memories as inputs, and a procedural memory.

At token t, with the layer's input x, read-outs y of the procedural, working and episodic memories
(the latter two projected to D_h), and the mean surprise sigma of the previous span:

    u = [x; y_pm; P_wm y_wm; P_em y_em; sigma]
    a = sigmoid(A u),   b = tanh(B u)
    h_t = a_t (c_t h_{t-1}) + b_t        c_t = 0 at the first token of a document, else 1
    o = LN(W_o h + x),   o <- o + FFN(LN(o))

Gates do not depend on h, so that the recurrence is a linear scan over all tokens of a span.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neuro.layers.memory.columns import ColumnLinear, ColumnNorm, ColumnPerceptron
from neuro.layers.memory.documents import Documents
from neuro.layers.memory.procedural import Procedural, ProceduralRead
from neuro.ops.scan import linear_scan

#: range of a's initial values; their logits are evenly spaced
_SLOWEST, _FASTEST = 0.98, 0.5


class ColumnLayer(nn.Module):
    """One layer of all columns: `[C, N, P, D_h]` to the same shape.

    Initial weights: `gain` of what is added to a residual stream; `memory_gain` of the memories in
    the gates, relative to those of x (the variance of the gates' preactivations is the same).
    """

    def __init__(
        self, columns: int, width: int, procedural: Procedural, gain: float, memory_gain: float
    ):
        super().__init__()
        self.width = width
        self.gates = ColumnLinear(columns, 4 * width + 1, 2 * width)
        self.mix = ColumnLinear(columns, width, width, gain=gain)
        self.norm = ColumnNorm(columns, width)
        self.feedforward = ColumnPerceptron(columns, width, 4 * width, gain)
        self.procedural = ProceduralRead(columns, width, procedural)
        assert self.gates.bias is not None
        first, last = (math.log(a / (1 - a)) for a in (_FASTEST, _SLOWEST))
        start = torch.linspace(first, last, width)
        with torch.no_grad():
            self.gates.bias.view(columns, 2, width)[:, 0] = start
            # x and three read-outs of equal mean squares
            self.gates.weight.mul_(2 / math.sqrt(1 + 3 * memory_gain**2))
            self.gates.weight[:, width:].mul_(memory_gain)
            # h has 1 / (1 - a^2) times the mean square of b: without this factor (as in the LRU,
            # Orvieto et al. 2023), slow channels drown the layer's input x
            self.mix.weight.mul_((1 - start.sigmoid().square()).sqrt()[:, None])

    def forward(
        self, x: Tensor, memories: Tensor, h: Tensor, documents: Documents
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs o, the last hidden state `[C, N, D_h]`, and the gates a, from which h decays.

        `memories`: the read-outs and sigma, `[C, N, P, 3 D_h + 1]`; h: `[C, N, D_h]`, before
        """
        a, b = self.gates(torch.cat((x, memories.to(x)), -1)).float().chunk(2, -1)
        a, b = a.sigmoid(), b.tanh()
        keep = (~documents.starts).to(a)[..., None]
        if x.shape[2] == 1:  # generation: a scan of one step
            states = torch.addcmul(b, a * keep, h[:, :, None])
        else:
            scan = linear_scan((a * keep).permute(2, 0, 1, 3), b.permute(2, 0, 1, 3), h)
            states = scan.permute(1, 2, 0, 3)
        o = self.norm(self.mix(states) + x)
        return o + self.feedforward(o), states[:, :, -1], a
