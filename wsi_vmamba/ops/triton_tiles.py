# Kernels are Triton, not Python: only compile-time arguments may carry annotations.
# mypy: disable-error-code="misc,untyped-decorator,no-untyped-call,no-untyped-def"
# ruff: noqa: ANN001, ANN201
"""What the Triton kernels share: where tokens, tiles and segments lie, how a tile is loaded, softplus.

`wsi_vmamba.ops.triton_kernels` explains tiles and segments. Inside a kernel a tile is a matrix (ALONG, ACROSS x BD):
the axis that is walked comes first, for rows and for columns, and is loaded that way round; the other axis and the
channels lie side by side. Threads are spread over the second dimension only, each holds the tokens it walks over in
its own registers, and a scan needs neither shuffles nor shared memory. For that layout the compiler must not know that
addresses are aligned to more than VEC channels: strides of maps are passed in units of VEC, their alignment hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
#: Strides whose alignment is hidden from the compiler, see above.
MAP_STRIDES = [f"{name}_stride_{axis}" for name in ("u", "gy", "y", "du") for axis in "bhw"]


@triton.jit
def token_offset(batch, row, column, stride_b, stride_h, stride_w):
    """Offset of a token in elements, in 64 bits whatever the types of the arguments."""
    wide_batch = tl.cast(batch, tl.int64)
    wide_row = tl.cast(row, tl.int64)
    wide_column = tl.cast(column, tl.int64)
    return wide_batch * stride_b + wide_row * stride_h + wide_column * stride_w


@triton.jit
def segment_offset(batch, index, length_rows, length_columns, slots, K: tl.constexpr):
    """Offset of segment ``index`` (in map order) of direction K in a scratch array (batch, segment, slots).

    One batch entry holds the segments of directions 0, 2, 1, 3; the reverses are stored in scan order.
    """
    lengths = 2 * (tl.cast(length_rows, tl.int64) + tl.cast(length_columns, tl.int64))
    base = tl.cast(batch, tl.int64) * lengths
    position = tl.cast(index, tl.int64)
    if K == 1:
        base += 2 * tl.cast(length_rows, tl.int64)
    elif K == 2:
        base += length_rows
        position = length_rows - 1 - position
    elif K == 3:
        base += 2 * tl.cast(length_rows, tl.int64) + length_columns
        position = length_columns - 1 - position
    return (base + position) * slots


@triton.jit
def softplus(z):
    """log(1 + exp(z)) for float32, to 2e-7 of its value however small."""
    small = tl.exp2(-tl.abs(z) * LOG2E)
    # log(1 + x) / x on [0, 1], minimax: keeps small steps exact and spares the special-function unit.
    p = 0.0052326880395412445 * small - 0.029505213722586632
    p = p * small + 0.07822591066360474
    p = p * small - 0.13663242757320404
    p = p * small + 0.19106005132198334
    p = p * small - 0.2484298199415207
    p = p * small + 0.3331909775733948
    p = p * small - 0.4999949336051941
    p = p * small + 0.9999999403953552
    return tl.maximum(z, 0.0) + p * small


@triton.jit
def follow(decay_1, state_1, decay_2, state_2):
    """Compose two steps of ``h -> decay * h + state``: first 1, then 2."""
    return decay_1 * decay_2, decay_2 * state_1 + state_2


@triton.jit
def tile_position(tiles_h, tiles_w, channel_blocks):
    """Split the program number into (batch, tile row, tile column, channel block), the last one fastest."""
    program = tl.program_id(0)
    block = program % channel_blocks
    tile = program // channel_blocks
    return tile // (tiles_w * tiles_h), tile // tiles_w % tiles_h, tile % tiles_w, block


@triton.jit
def token_axes(P: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Rows and columns inside a tile, broadcastable to (ALONG, ACROSS): P = 0 walks rows, 1 columns."""
    if P == 0:
        return tl.arange(0, TH)[None, :], tl.arange(0, TW)[:, None]
    else:  # noqa: RET505 - Triton wants both branches
        return tl.arange(0, TH)[:, None], tl.arange(0, TW)[None, :]


@triton.jit
def lane_axes(P: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr):
    """Rows, columns (broadcastable to (ALONG, ACROSS x BD)) and channels (ACROSS x BD,) inside a tile."""
    if P == 0:
        lane = tl.arange(0, TH * BD)
        return (lane // BD)[None, :], tl.arange(0, TW)[:, None], lane % BD
    else:  # noqa: RET505
        lane = tl.arange(0, TW * BD)
        return tl.arange(0, TH)[:, None], (lane // BD)[None, :], lane % BD


@triton.jit
def load_map(lane_ptr, row, column, stride_h, stride_w, valid):
    """A tile of a map, (ALONG, ACROSS x BD) in float32; ``lane_ptr`` points at its first token, channel by lane."""
    place = token_offset(0, row, column, 0, stride_h, stride_w)
    return tl.load(lane_ptr[None, :] + place, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def spread(values, BD: tl.constexpr):
    """Repeat (ALONG, ACROSS) for every channel: (ALONG, ACROSS x BD)."""
    along: tl.constexpr = values.shape[0]
    across: tl.constexpr = values.shape[1]
    return tl.reshape(tl.broadcast_to(values[:, :, None], (along, across, BD)), (along, across * BD))


@triton.jit
def load_low_rank(proj_ptr, token, inside, first, packed, RP: tl.constexpr, PACK: tl.constexpr):
    """The low-rank step inputs of a tile, (ALONG x ACROSS, RP) in float32.

    Reads on into B and C, up to the end of the direction's ``packed * PACK`` values, so that whole vectors can be
    loaded; `load_weight` has zeros there.
    """
    r = tl.arange(0, RP)
    mask = inside[:, :, None] & (r < packed * PACK)[None, None, :]
    low = tl.load(proj_ptr + token[:, :, None] + (first + r)[None, None, :], mask=mask, other=0.0).to(
        tl.float32
    )
    return tl.reshape(low, (token.shape[0] * token.shape[1], RP))


@triton.jit
def load_weight(weight_ptr, channel, channel_ok, channels, rank, K: tl.constexpr, RP: tl.constexpr):
    """dt-projection of direction K for a block of channels, (RP, BD), zero from ``rank`` on."""
    r = tl.arange(0, RP)
    mask = channel_ok[None, :] & (r < rank)[:, None]
    return tl.load(weight_ptr + (K * channels + channel)[None, :] * rank + r[:, None], mask=mask, other=0.0)


@triton.jit
def load_column(proj_ptr, token, inside, place, BD: tl.constexpr):
    """One value of the projection for each token of a tile, spread over the channels, float32."""
    return spread(tl.load(proj_ptr + token + place, mask=inside, other=0.0).to(tl.float32), BD)


@triton.jit
def decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N):
    """A = -exp(A_logs) of state ``n``, times log2(e), for each of ``channel``."""
    a_log = tl.load(a_logs_ptr + (k * channels + channel) * N + n, mask=channel_ok, other=0.0)
    return -tl.exp2(a_log * LOG2E) * LOG2E


@triton.jit
def segments_of_tile(
    batch, tile_row, tile_column, height, width, tiles_h, tiles_w, slots,
    K: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Scratch offsets of the segments that direction K cuts through a tile, and which exist: (ACROSS x BD,) each."""
    length_rows = tl.cast(height, tl.int64) * tiles_w
    length_columns = tl.cast(width, tl.int64) * tiles_h
    if K % 2 == 0:
        across = tile_row * TH + tl.arange(0, TH * BD) // BD
        index = tl.cast(across, tl.int64) * tiles_w + tile_column
        exists = across < height
    else:
        across = tile_column * TW + tl.arange(0, TW * BD) // BD
        index = tl.cast(across, tl.int64) * tiles_h + tile_row
        exists = across < width
    return segment_offset(batch, index, length_rows, length_columns, slots, K), exists


@triton.jit
def is_border(FIRST: tl.constexpr, K: tl.constexpr, ALONG: tl.constexpr):
    """Which tokens are the first (else the last) of direction K inside a tile, (ALONG, 1)."""
    return tl.arange(0, ALONG)[:, None] == (0 if (K < 2) == FIRST else ALONG - 1)


@triton.jit
def border_of(tile, FIRST: tl.constexpr, K: tl.constexpr):
    """The values of a tile at the first (else the last) token of direction K, (ACROSS x BD,)."""
    return tl.sum(tl.where(is_border(FIRST, K, tile.shape[0]), tile, 0.0), axis=0)


@triton.jit
def turn(tile, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr):
    """(TW, TH x BD), as row directions have it, to (TH, TW x BD)."""
    return tl.reshape(tl.permute(tl.reshape(tile, (TW, TH, BD)), (1, 0, 2)), (TH, TW * BD))
