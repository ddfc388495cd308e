"""nanoGPT's recipe for characters on a CPU, written from its published settings, as a reference.

The model is GPT-2's decoder without biases: learned positions, LayerNorm before attention and MLP,
GELU, one matrix for embedding and scores. Weights are normal with standard deviation 0.02, those of
a residual branch's output divided by sqrt(2 layers). AdamW decays matrices only; the rate rises
linearly and falls as half a cosine. A batch is 12 blocks of 64 characters from random places.

Settings: README of github.com/karpathy/nanoGPT ("I only have a macbook"), with those of
config/train_shakespeare_char.py where the command line gives none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK, BATCH, UPDATES = 64, 12, 2000
LAYERS, HEADS, WIDTH = 4, 4, 128
PEAK, LAST, WARMUP = 1e-3, 1e-4, 100


class _Norm(nn.Module):
    """LayerNorm without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self.weight)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = _Norm(), _Norm()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attended = nn.Linear(WIDTH, WIDTH, bias=False)
        self.hidden = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, steps, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.attended(y.transpose(1, 2).reshape(batch, steps, WIDTH))
        return x + self.out(F.gelu(self.hidden(self.norm_2(x))))


class NanoGPT(nn.Module):
    """Scores `[B, T, V]` of the next characters after tokens `[B, T]`, T at most 64."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.Sequential(*(_Block() for _ in range(LAYERS)))
        self.norm = _Norm()
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch_end = name.endswith(("attended.weight", "out.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * LAYERS) if branch_end else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def trained(text: Tensor, vocabulary: int, seed: int = 0) -> NanoGPT:
    """A model after 2000 updates on a text `[N]` of tokens."""
    torch.manual_seed(seed)
    model = NanoGPT(vocabulary)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))
    for update in range(UPDATES):
        for group in optimizer.param_groups:
            group["lr"] = _rate(update)
        first = torch.randint(len(text) - BLOCK, (BATCH, 1))
        blocks = text[first + torch.arange(BLOCK + 1)]
        loss = nats(model, blocks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def nats(model: NanoGPT, blocks: Tensor) -> Tensor:
    """Mean cross-entropy of all characters of blocks `[B, 65]` but the first."""
    return F.cross_entropy(model(blocks[:, :-1]).flatten(0, 1), blocks[:, 1:].flatten())


@torch.no_grad()
def validation(model: NanoGPT, text: Tensor) -> float:
    """Nats per character of a text `[N]`, cut into blocks of 64 without an overlap of targets."""
    count = (len(text) - 1) // BLOCK
    first = BLOCK * torch.arange(count)[:, None]
    blocks = text[first + torch.arange(BLOCK + 1)]
    return sum(float(nats(model, part)) * len(part) for part in blocks.split(64)) / count


def _rate(update: int) -> float:
    if update < WARMUP:
        return PEAK * (update + 1) / (WARMUP + 1)
    done = (update - WARMUP) / (UPDATES - WARMUP)
    return LAST + 0.5 * (1 + math.cos(math.pi * done)) * (PEAK - LAST)
