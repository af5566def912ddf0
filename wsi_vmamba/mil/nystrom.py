"""Nyström attention (Xiong et al., 2021): self-attention through landmarks, linear in the tokens."""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

#: Steps of the iteration for the pseudo-inverse, and taps of the convolution beside the attention, as published.
PINV_STEPS = 6
RESIDUAL_TAPS = 33


class NystromAttention(nn.Module):
    """Softmax(QK') V as softmax(Q L_k') pinv(softmax(L_q L_k')) softmax(L_q K') V, L the landmarks' means.

    Differs from the published code in details that matter to bags: landmarks are means of stretches of tokens,
    the last one shorter, so that no padding takes part, and no matrix of tokens by landmarks is kept.
    """

    def __init__(self, dim: int, *, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.residual = nn.Conv1d(dim, dim, RESIDUAL_TAPS, padding=RESIDUAL_TAPS // 2, groups=dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (L, dim) in their order to (L, dim)."""
        q, k, v = (
            rearrange(part, "l (heads width) -> heads l width", heads=self.heads)
            for part in self.to_qkv(tokens).chunk(3, dim=1)
        )
        q_marks, k_marks = self._landmarks(q), self._landmarks(k)
        gathered = _attend(q_marks, k, v)
        inverse = pseudo_inverse(torch.softmax(q_marks @ k_marks.mT / q.shape[2] ** 0.5, dim=2))
        spread = _attend(q, k_marks, inverse.to(v.dtype) @ gathered)
        beside = self.residual(rearrange(v, "heads l width -> 1 (heads width) l"))
        spread = rearrange(spread, "heads l width -> l (heads width)")
        out: Tensor = self.to_out(spread + rearrange(beside, "1 dim l -> l dim"))
        return out

    def _landmarks(self, tokens: Tensor) -> Tensor:
        """Means of stretches of tokens (heads, L, width): (heads, at most ``landmarks``, width)."""
        length = math.ceil(tokens.shape[1] / self.landmarks)
        marks = math.ceil(tokens.shape[1] / length)
        padded = F.pad(tokens, (0, 0, 0, marks * length - tokens.shape[1]))
        counts = torch.full((marks, 1), float(length), dtype=tokens.dtype, device=tokens.device)
        counts[-1] -= marks * length - tokens.shape[1]  # padding adds nothing and does not count
        return (
            reduce(padded, "heads (marks length) width -> heads marks width", "sum", length=length) / counts
        )


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of (heads, l, width) to (heads, m, width); only with a batch axis is no (l, m) matrix made."""
    return F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Approximate pseudo-inverse of softmax matrices (heads, m, m) by the published third-order iteration."""
    size = matrix.abs().sum(dim=1).amax(dim=1) * matrix.abs().sum(dim=2).amax(dim=1)
    inverse = matrix.mT / size[:, None, None]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(PINV_STEPS):
        product = matrix @ inverse
        inverse = (
            0.25 * inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product)))
        )
    return inverse
