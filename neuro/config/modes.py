"""The modes of a run, in a module that commands without torch and pydantic can load."""

from __future__ import annotations

from typing import Literal

Mode = Literal[
    "train", "evaluate", "predict", "generate", "export", "benchmark", "check", "lr_find", "opc"
]

#: modes that use the run that the key `run` names
OF_FINISHED: frozenset[Mode] = frozenset({"evaluate", "predict", "generate", "export", "benchmark"})

#: keys of mode=generate alone
OF_GENERATION = ("prompt", "tokens", "temperature", "top_k", "top_p")

#: keys of mode=export and mode=benchmark alone
OF_DEPLOYMENT = ("format", "benchmark")
