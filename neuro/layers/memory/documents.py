"""Documents within a part of the streams: where they begin, and which tokens belong to which.

A token begins a document if the token before it ended one. What belongs to a document (hidden
states, working memory, and outside of lifelong learning the other memories) is reset there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Documents(NamedTuple):
    """Documents of tokens `[N, P]` in N streams.

    - `starts` `[N, P]`: whether a token is the first of its document
    - `carried` `[N, P]`: whether it belongs to the document that began before these tokens
    - `last` `[N, P]`: whether it belongs to the document that is the last one here
    - `renewed` `[N]`: whether any document begins here
    """

    starts: Tensor
    carried: Tensor
    last: Tensor
    renewed: Tensor

    @classmethod
    def of(cls, starts: Tensor) -> Documents:
        """The documents of tokens with these starts."""
        number = starts.cumsum(1)
        return cls(starts, number == 0, number == number[:, -1:], number[:, -1] > 0)

    def without_ends(self) -> Documents:
        """The same tokens as one document that began before them: no memory is reset."""
        always = torch.ones_like(self.starts)
        return Documents(~always, always, always, torch.zeros_like(self.renewed))
