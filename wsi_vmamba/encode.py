"""Region of pixels -> map of features -> one feature per patch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, get_args, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import nn

from wsi_vmamba.config import ExtractConfig, default_of
from wsi_vmamba.config.fields import AnyPrecision
from wsi_vmamba.device import Precision, resolve_device
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.inference.bands import TensorBands
from wsi_vmamba.inference.colours import colour_moments
from wsi_vmamba.inference.convolve import pixel_tensor
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.linear import onednn_usable
from wsi_vmamba.inference.memory import free_bytes, largest_side_px, too_large
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch_forward import disk_bytes
from wsi_vmamba.inference.sparse_forward import sparse_disk_bytes
from wsi_vmamba.inference.sparse_plan import plan_sparse
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import Rgb, normalise
from wsi_vmamba.model.null import NullBackbone
from wsi_vmamba.model.shipped import FROM_FILE, WITHOUT_WEIGHTS, resolve_weights
from wsi_vmamba.model.timm_windows import WindowBackbone
from wsi_vmamba.model.variants import TIMM_ALIASES
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.model.window_names import is_window_name
from wsi_vmamba.ops import cpu, triton
from wsi_vmamba.regions import Region
from wsi_vmamba.stream import BandStream, band_bytes

Key = TypeVar("Key")
#: Rows [first, last) of a feature map, float32 (n, w, dim).
FeatureRows = Callable[[int, int], NDArray[np.float32]]

#: Rows of a region that a `BandEncoder` takes at a time, about.
_BAND_PX = 1024
#: float32 maps of the first stage that a forward pass with whole maps and the reference scan holds at its peak.
_WHOLE_MAPS = 56


class Pending(Protocol):
    """A region that is being encoded."""

    def result(self) -> NDArray[np.float32]:
        """Wait for the features and return them, as `Encoder.encode` does."""
        ...


@dataclass(frozen=True)
class Finished:
    """A region that was encoded at once."""

    features: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        """See `Pending.result`."""
        return self.features


class Encoder(Protocol):
    """Turns a region into a feature map; built by `build_encoder`.

    Attributes:
        name: of the backbone, in the BACKBONES table.
        dim: features per token.
        stride_px: region pixels per token, along each axis.
        weights_hash: SHA-256 (hex) of the backbone's parameters.
        precision: what the maps are kept in, "fp32" or "bf16": the resolved choice, never "auto".
        device: where it computes, as torch names it.
        ahead: regions worth submitting before the first of them is asked for: 0 where `submit` computes at once.
    """

    name: str
    dim: int
    stride_px: int
    weights_hash: str
    precision: Precision
    device: str
    ahead: int = 0

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB (H, W, 3) in one forward pass -> (ceil(H/stride_px), ceil(W/stride_px), dim)."""
        ...

    def submit(self, pixels: NDArray[np.uint8]) -> Pending:
        """Begin to encode a region; ``pixels`` may be reused when this returns.

        What subclasses this protocol and encodes at once need not write it.
        """
        return Finished(self.encode(pixels))


@runtime_checkable
class ScratchEncoder(Encoder, Protocol):
    """An encoder for regions of any size, whose maps lie in files of a scratch folder."""

    def encode_in_scratch(
        self, pixels: BandStream, scratch: Scratch, *, report: Callable[[float], None]
    ) -> FeatureRows:
        """Encode a region with its map in files.

        Args:
            pixels: of the region.
            scratch: where the map lies; a pass that was interrupted there goes on.
            report: takes the share that is done, 0 to 1.

        Raises:
            MemoryLimitError: even its strips would not fit.
            StoreError: the disk refuses.
        """
        ...

    def scratch_bytes(self, *, height_px: int, width_px: int, tissue: NDArray[np.bool_] | None = None) -> int:
        """Most bytes that the files of a region take, or those of its tissue.

        Raises:
            MemoryLimitError: even its strips would not fit.
        """
        ...

    def memory_in_words(self, *, height_px: int, width_px: int) -> str:
        """What memory its pass takes, to be said before it begins; empty where that is the process's own."""
        ...


class WholeMapEncoder:
    """A backbone as it is, every map whole in memory: for GPUs, and for CPUs without the compiled kernels."""

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        *,
        precision: Precision,
        device: str,
        memory_limit: int | None = None,
    ) -> None:
        """Take over ``backbone``; it is moved to ``device`` and put in evaluation mode."""
        self.name = name
        self.precision: Precision = precision
        self.device = device
        self.weights_hash = weights_hash(backbone)
        self.dim, self.stride_px = cast(int, backbone.dim), cast(int, backbone.stride_px)
        self._mean, self._std = cast(Rgb, backbone.mean), cast(Rgb, backbone.std)
        self.ahead = 0
        self._backbone = backbone.to(device).eval()
        self._memory_limit = memory_limit

    def submit(self, pixels: NDArray[np.uint8]) -> Pending:
        """See `Encoder.submit`."""
        return Finished(self.encode(pixels))

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`.

        Raises:
            MemoryLimitError: the region would not fit in main memory, by a rough estimate.
        """
        check_pixels(pixels)
        if self.device == "cpu":
            self._check_memory(*pixels.shape[:2])
        low = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=low),
        ):
            image = normalise(pixel_tensor(pixels).to(self.device)[None], mean=self._mean, std=self._std)
            features = self._backbone.forward_features(image)  # type: ignore[operator]
            on_map = rearrange(features[0], "c h w -> h w c")
            result: NDArray[np.float32] = on_map.float().contiguous().cpu().numpy()
        return result

    def _check_memory(self, height_px: int, width_px: int) -> None:
        check_whole_maps(self._backbone, height_px, width_px, allowed=free_bytes(self._memory_limit))


def check_whole_maps(
    backbone: nn.Module,
    height_px: int,
    width_px: int,
    *,
    allowed: int,
    beside_bytes: Callable[[int, int], int] = lambda height_px, width_px: 0,
) -> None:
    """Refuse a region whose whole maps would not fit, by a rough estimate.

    Args:
        backbone: the network; one that does not say what it needs is not refused anything.
        height_px: of the region.
        width_px: likewise.
        allowed: bytes that it may take.
        beside_bytes: what a region takes beside the maps, by its height and width.

    Raises:
        MemoryLimitError: it needs more; the message says what would fit.
    """
    of_maps = _bytes_needed_by(backbone)
    if of_maps is None:
        return

    def needed(height_px: int, width_px: int) -> int:
        return of_maps(height_px, width_px) + beside_bytes(height_px, width_px)

    if needed(height_px, width_px) > allowed:
        side = largest_side_px(lambda side: needed(side, side) <= allowed)
        raise too_large(
            height_px, width_px, needed=needed(height_px, width_px), allowed=allowed, side_px=side
        )


def _bytes_needed_by(backbone: nn.Module) -> Callable[[int, int], int] | None:
    """Memory, about, that a backbone needs of a region by its height and width; None where it does not say."""
    if not isinstance(backbone, VMamba):
        return cast("Callable[[int, int], int] | None", getattr(backbone, "needed_bytes", None))
    config = backbone.config
    return lambda height, width: height * width // 16 * config.d_inner(0) * config.d_state * 4 * _WHOLE_MAPS


class BandEncoder(WholeMapEncoder):
    """A backbone whose squares know nothing of each other, in bands of rows: the region is never whole in memory."""

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        check_pixels(pixels)
        band_px = max(1, _BAND_PX // self.stride_px) * self.stride_px
        tops = range(0, len(pixels), band_px)
        return np.concatenate([super(BandEncoder, self).encode(pixels[top : top + band_px]) for top in tops])


class WindowEncoder(BandEncoder):
    """A network of timm, window by window: only the windows that are asked for, many in one forward pass."""

    def __init__(
        self,
        name: str,
        backbone: WindowBackbone,
        *,
        precision: Precision,
        device: str,
        memory_limit: int | None = None,
    ) -> None:
        """See `WholeMapEncoder`."""
        super().__init__(name, backbone, precision=precision, device=device, memory_limit=memory_limit)
        self.facts: Mapping[str, Any] = backbone.facts
        self.any_window = backbone.any_window
        self._windows = backbone

    def encode_windows(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB squares (n, side, side, 3), which the network sees at its own size, -> (n, dim)."""
        size = self._windows.batch
        batches = (windows[first : first + size] for first in range(0, len(windows), size))
        return np.concatenate([np.empty((0, self.dim), np.float32), *map(self._encode_batch, batches)])

    def encode_patches(
        self, pixels: NDArray[np.uint8], region: Region, *, patch_px: int
    ) -> NDArray[np.float32]:
        """Encode the kept patches of a region and nothing else of it.

        Args:
            pixels: RGB (H, W, 3) of the region.
            region: its patches are (column, row) on the global grid.
            patch_px: side of a patch, a multiple of the window; a patch of several windows is their mean.

        Returns:
            (n, dim), in the order of ``region.patches``.

        Raises:
            UsageError: the patch is no multiple of the window.
        """
        check_pixels(pixels)
        side = self.stride_px
        across = whole_tokens(patch_px, stride_px=side)
        corners = [
            (row * patch_px - region.y_px + down * side, column * patch_px - region.x_px + right * side)
            for column, row in region.patches.tolist()
            for down in range(across)
            for right in range(across)
        ]
        # Cut a batch at a time: all of them together would be the region once more.
        windows = np.concatenate(
            [
                self.encode_windows(np.stack([pixels[y : y + side, x : x + side] for y, x in batch]))
                for batch in _batched(corners, self._windows.batch)
            ]
        )
        of_patches = windows.reshape(len(region.patches), across**2, -1)
        means: NDArray[np.float32] = of_patches.mean(axis=1, dtype=np.float32)
        return means

    def _encode_batch(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        low = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=low),
        ):
            on_device = torch.from_numpy(np.ascontiguousarray(windows)).to(self.device)
            features = self._windows.encode_windows(normalise(on_device, mean=self._mean, std=self._std))
            result: NDArray[np.float32] = features.float().cpu().numpy()
        return result


class ColourEncoder(WholeMapEncoder):
    """The backbone without weights on the CPU: as fast as the pixels can be looked at, with no map in memory."""

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`."""
        check_pixels(pixels)
        return colour_moments(pixels, square_px=self.stride_px)


class StripEncoder:
    """A VMamba on the CPU, strip by strip (`wsi_vmamba.inference`): large regions in little memory."""

    def __init__(
        self, name: str, backbone: VMamba, *, precision: Precision, memory_limit: int | None = None
    ) -> None:
        """Pack the weights of ``backbone``, which is not kept."""
        self.name = name
        self.precision: Precision = precision
        self.device = "cpu"
        self.weights_hash = weights_hash(backbone)
        self.dim, self.stride_px = backbone.dim, backbone.stride_px
        self.ahead = 0
        self.forward = StripForward(backbone, precision=precision, memory_limit=memory_limit)

    def submit(self, pixels: NDArray[np.uint8]) -> Pending:
        """See `Encoder.submit`."""
        return Finished(self.encode(pixels))

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`.

        Raises:
            MemoryLimitError: the region would not fit; nothing has been allocated, and the message says what would.
        """
        check_pixels(pixels)
        return self.forward(pixels)

    def encode_in_scratch(
        self, pixels: BandStream, scratch: Scratch, *, report: Callable[[float], None]
    ) -> FeatureRows:
        """See `ScratchEncoder.encode_in_scratch`: the bytes of `encode`."""
        forward = self.forward.in_scratch(
            TensorBands(pixels), scratch, report=report, pixels_bytes=band_bytes(pixels.width)
        )
        return forward.feature_rows

    def pool_tissue_in_scratch(
        self,
        pixels: BandStream,
        tissue: NDArray[np.bool_],
        scratch: Scratch,
        *,
        report: Callable[[float], None],
    ) -> NDArray[np.float32]:
        """The same of those patches of a region that are tissue, and nothing else of it.

        Args:
            pixels: of the region.
            tissue: (rows, columns) of patches, together the region.
            scratch: see `encode_in_scratch`.
            report: likewise.

        Returns:
            The mean of the tokens of each patch of tissue, (n, dim), row by row.
        """
        forward = self.forward.tissue_in_scratch(
            TensorBands(pixels), tissue, scratch, report=report, pixels_bytes=band_bytes(pixels.width)
        )
        return forward.pooled()

    def pool_tissue(
        self, pixels: BandStream, tissue: NDArray[np.bool_], *, report: Callable[[float], None]
    ) -> NDArray[np.float32]:
        """The bytes of `pool_tissue_in_scratch` with maps in memory.

        Raises:
            MemoryLimitError: they would not fit; nothing has been read.
        """
        return self.forward.pool_tissue(
            TensorBands(pixels), tissue, report=report, pixels_bytes=band_bytes(pixels.width)
        )

    def scratch_bytes(self, *, height_px: int, width_px: int, tissue: NDArray[np.bool_] | None = None) -> int:
        """See `ScratchEncoder.scratch_bytes`."""
        plan = self.forward.plan_in_scratch(height_px=height_px, width_px=width_px)
        return disk_bytes(plan) if tissue is None else sparse_disk_bytes(plan_sparse(plan, tissue))

    def memory_in_words(self, *, height_px: int, width_px: int) -> str:
        """See `ScratchEncoder.memory_in_words`."""
        return ""


def build_encoder(
    name: str,
    *,
    weights: str | Path = default_of(ExtractConfig, "weights"),
    precision: AnyPrecision = default_of(ExtractConfig, "precision"),
    device: str = default_of(ExtractConfig, "device"),
    seed: int = default_of(ExtractConfig, "seed"),
    memory_limit: int | None = None,
    patch_px: int | None = None,
) -> Encoder:
    """Build the encoder for a backbone of the BACKBONES table.

    Args:
        name: of the backbone.
        weights: "auto" (those shipped with the backbone), "random" (drawn from ``seed``), or a checkpoint.
        precision: storage of maps and matmul inputs; "auto" takes bf16 where the device multiplies it natively.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of random weights.
        memory_limit: most bytes the process may hold (on a GPU: most device bytes); None = what is free.
        patch_px: side of the patches, which are the windows of ``timm:NAME`` and ``hf-hub:ORG/NAME``; None = 256.

    Raises:
        UnknownNameError: no such backbone.
        WeightsError: the checkpoint does not fit.
        UsageError: no weights are shipped with the backbone, an unknown precision, or a device this machine lacks.
    """
    if precision not in get_args(AnyPrecision):
        raise UnknownNameError("precision", precision, get_args(AnyPrecision))
    device = resolve_device(device)
    backbone = build_backbone(name, weights=resolve_weights(name, weights).source, seed=seed)
    if device == "cpu" and isinstance(backbone, VMamba) and cpu.available:
        resolved: Precision = precision if precision != "auto" else "bf16" if multiplies_bf16() else "fp32"
        return StripEncoder(name, backbone, precision=resolved, memory_limit=memory_limit)
    resolved = precision if precision != "auto" else "fp32" if device == "cpu" else "bf16"
    if device != "cpu" and isinstance(backbone, VMamba) and triton.unavailable_reason() is None:
        from wsi_vmamba.inference.cuda_encoder import CudaEncoder

        return CudaEncoder(name, backbone, precision=resolved, device=device, memory_limit=memory_limit)
    if isinstance(backbone, WindowBackbone):
        if patch_px is not None and backbone.any_window:
            backbone.stride_px = patch_px
        return WindowEncoder(name, backbone, precision=resolved, device=device, memory_limit=memory_limit)
    if getattr(backbone, "computes_as_stored", False):
        if precision == "bf16":
            raise UsageError(f"backbone {name} computes as its file was written; leave --precision out")
        resolved = "fp32"
    is_global = isinstance(backbone, VMamba) or getattr(backbone, "sees_whole_regions", False)
    kind = WholeMapEncoder if is_global else BandEncoder
    if device == "cpu" and isinstance(backbone, NullBackbone):
        kind = ColourEncoder
    return kind(name, backbone, precision=resolved, device=device, memory_limit=memory_limit)


def encode_each(
    encoder: Encoder, regions: Iterable[tuple[Key, NDArray[np.uint8]]]
) -> Iterator[tuple[Key, NDArray[np.float32]]]:
    """Encode regions in order; on a GPU the next one is on its way while the caller has the features of this one.

    Args:
        encoder: what encodes.
        regions: what the caller knows a region by, and its RGB pixels (H, W, 3).

    Yields:
        The same key and the feature map, as `Encoder.encode` returns it.
    """
    under_way: deque[tuple[Key, Pending]] = deque()
    for key, pixels in regions:
        under_way.append((key, encoder.submit(pixels)))
        if len(under_way) > encoder.ahead:
            first, pending = under_way.popleft()
            yield first, pending.result()
    for key, pending in under_way:
        yield key, pending.result()


def pool_patches(
    feature_map: NDArray[np.float32], region: Region, *, patch_px: int, stride_px: int
) -> NDArray[np.float32]:
    """Average the tokens of each kept patch of a region.

    Args:
        feature_map: (h, w, D), the encoding of ``region``.
        region: its patches are (column, row) on the global grid.
        patch_px: side of a patch in target pixels, a multiple of ``stride_px``.
        stride_px: target pixels per token.

    Returns:
        (n, D), in the order of ``region.patches``.

    Raises:
        UsageError: the patch is no multiple of the stride, or the map is not that of the region.
    """
    height, width, _ = feature_map.shape
    if (height, width) != (-(-region.height_px // stride_px), -(-region.width_px // stride_px)):
        raise UsageError(
            f"a region of {region.width_px} x {region.height_px} px does not give a map of {width} x {height} tokens"
        )
    return pool_rows(
        lambda first, last: feature_map[first:last], region, patch_px=patch_px, stride_px=stride_px
    )


def pool_rows(rows: FeatureRows, region: Region, *, patch_px: int, stride_px: int) -> NDArray[np.float32]:
    """See `pool_patches`, of a map that is had a row of patches at a time."""
    tokens = whole_tokens(patch_px, stride_px=stride_px)
    if region.width_px % patch_px or region.height_px % patch_px:
        raise UsageError(
            f"a region must be whole patches of {patch_px} px; got {region.width_px} x {region.height_px}"
        )
    columns = region.patches[:, 0] - region.x_px // patch_px
    row_of_patch = region.patches[:, 1] - region.y_px // patch_px
    pooled = []
    for row in np.unique(row_of_patch):  # patches come row by row
        band = rows(row * tokens, (row + 1) * tokens)
        squares = band.reshape(tokens, region.width_px // patch_px, tokens, -1)
        pooled.append(squares.mean(axis=(0, 2), dtype=np.float32)[columns[row_of_patch == row]])
    features: NDArray[np.float32] = np.concatenate(pooled)
    return features


def facts_of(encoder: Encoder) -> dict[str, Any]:
    """What else than name, weights and precision makes features what they are, as JSON values; see `FeatureMeta`.

    An encoder, also one of somebody's own, says it in its attribute ``facts``; without one there is nothing to say.
    """
    return dict(getattr(encoder, "facts", {}))


def scans(encoder: Encoder) -> bool:
    """Whether an encoder may compute with the scan of this package: a window of timm, a file or `null` does not."""
    name = encoder.name
    return not (is_window_name(name) or name in TIMM_ALIASES or name in FROM_FILE or name in WITHOUT_WEIGHTS)


def _batched(items: list[Key], size: int) -> Iterator[list[Key]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def whole_tokens(patch_px: int, *, stride_px: int) -> int:
    """How many tokens a patch has along each axis.

    Raises:
        UsageError: it is no whole number of them.
    """
    if patch_px % stride_px:
        raise UsageError(
            f"patch_px must be a multiple of the encoder's stride of {stride_px} px, got {patch_px}; "
            f"try {max(1, round(patch_px / stride_px)) * stride_px}"
        )
    return patch_px // stride_px


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Refuse anything but a non-empty uint8 RGB image (H, W, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise UsageError(f"expected uint8 RGB pixels (H, W, 3), got {pixels.dtype} {pixels.shape}")


def multiplies_bf16() -> bool:
    """Whether this processor has bfloat16 matrix or dot-product instructions; torch tells by private names."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return onednn_usable(torch.bfloat16) and any(check() for check in checks if check is not None)
