"""The GPU encoder: regions in, features out, with upload, computation and download overlapping.

`CudaEncoder.submit` returns as soon as the work is queued: pixels go through page-locked memory on a stream of their
own, so the next region is decoded and uploaded while this one is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.device import Precision
from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference.bands import TensorBands
from wsi_vmamba.inference.cuda_forward import CudaForward
from wsi_vmamba.inference.cuda_plan import device_bytes, host_bytes, plan_sweep
from wsi_vmamba.inference.cuda_sweep import CudaSweep
from wsi_vmamba.inference.forward_in_files import PixelRows
from wsi_vmamba.inference.memory import free_bytes
from wsi_vmamba.inference.plan import EncodePlan
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch_forward import disk_bytes
from wsi_vmamba.inference.workers import Profile, Workers
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.stream import BandStream, band_bytes

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Image sizes whose kernels are kept recorded when graphs are asked for.
_MAX_GRAPHS = 4
#: Rows of the strips of each stage, in the scratch of a pass: whoever goes on has to cut the maps as they were cut.
_STRIPS = "strips.json"
#: Share of the free device memory that a pass in strips counts on; the rest is for what libraries take.
_SHARE_PLANNED = 0.9


class PendingFeatures:
    """Features that are being computed; `result` waits for them."""

    def __init__(self, host: Tensor, done: torch.cuda.Event | None) -> None:
        """Keep the tensor on the host, and the event after which it is filled (None: it is)."""
        self._host = host
        self._done = done

    def result(self) -> NDArray[np.float32]:
        """Features (h, w, dim), float32."""
        if self._done is not None:
            self._done.synchronize()
        features: NDArray[np.float32] = self._host.numpy()
        return features


class CudaEncoder:
    """A VMamba on the GPU; an `Encoder`.

    Attributes:
        name: of the backbone.
        dim: features per token.
        stride_px: region pixels per token.
        weights_hash: SHA-256 of the parameters.
        precision: of maps and matmuls; the scan is float32 always.
        device: as torch names it.
        ahead: regions worth submitting before the first of them is asked for.
    """

    def __init__(
        self,
        name: str,
        backbone: VMamba,
        *,
        precision: Precision,
        device: str = "cuda",
        memory_limit: int | None = None,
        graphs: bool = False,
    ) -> None:
        """Copy the weights of ``backbone``, which is not kept.

        Args:
            name: of the backbone.
            backbone: the network.
            precision: "fp32" or "bf16".
            device: where to compute; "cpu" runs the same code slowly, for tests.
            memory_limit: most device bytes a region may take; None = what is free.
            graphs: record the kernels of each image size once and replay them: fewer launches, worth it for small
                images; the memory of a recorded size stays taken.
        """
        self.name = name
        self.precision: Precision = precision
        self.device = device
        self.weights_hash = weights_hash(backbone)
        self.dim, self.stride_px = backbone.dim, backbone.stride_px
        self.forward = CudaForward(backbone, device=torch.device(device), dtype=_DTYPES[precision])
        self._on_gpu = self.forward.device.type == "cuda"
        self.ahead = 1
        self._run: Callable[[Tensor], Tensor] = self.forward
        if graphs and self._on_gpu:
            self._run = _Recorded(self.forward)
        self._memory_limit = memory_limit
        self._upload = _Upload(self.forward.device) if self._on_gpu else None

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB (H, W, 3) in one forward pass -> (h, w, dim).

        Raises:
            MemoryLimitError: the region would not fit; nothing has been allocated.
            UsageError: the region is smaller than one token.
        """
        return self.submit(pixels).result()

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """Queue a region and return at once; ``pixels`` may be reused when this returns. Raises as `encode`."""
        self._check(height_px=pixels.shape[0], width_px=pixels.shape[1])
        if self._upload is None:
            return PendingFeatures(self._run(torch.from_numpy(pixels)), None)
        with torch.cuda.device(self.forward.device):
            features = self._run(self._upload.send(pixels))
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return PendingFeatures(host, done)

    def encode_in_scratch(
        self, pixels: BandStream, scratch: Scratch, *, report: Callable[[float], None]
    ) -> Callable[[int, int], NDArray[np.float32]]:
        """See `encode.ScratchEncoder.encode_in_scratch`: strips of the map pass through the device."""
        return self.sweep(TensorBands(pixels), scratch, report=report, pixels_bytes=band_bytes(pixels.width))

    def sweep(
        self, pixels: PixelRows, scratch: Scratch, *, report: Callable[[float], None], pixels_bytes: int = 0
    ) -> Callable[[int, int], NDArray[np.float32]]:
        """The same, of ``pixels`` that take so many bytes of memory."""
        kept = scratch.read_json(_STRIPS)
        plan = self._plan_sweep(height_px=pixels.height, width_px=pixels.width, strip_rows=kept)
        needed, free = host_bytes(plan, d_state=self.forward.config.d_state) + pixels_bytes, free_bytes(None)
        if needed > free:
            raise MemoryLimitError(
                f"a region of {plan.width_px} x {plan.height_px} px needs {needed / 1e9:.1f} GB of memory beside the "
                f"GPU's, but {max(free, 0) / 1e9:.1f} GB are left; use a smaller --region-px or --precision bf16"
            )
        if kept is None:
            scratch.write_json(_STRIPS, [stage.strip_rows for stage in plan.stages])
        passing = CudaSweep(self.forward, plan, scratch, profile=Profile(), report=report)
        where = torch.cuda.device(self.forward.device) if self._on_gpu else nullcontext()
        with torch.inference_mode(), where, Workers(1) as workers:
            passing.run(pixels, workers)
        return passing.feature_rows

    def scratch_bytes(self, *, height_px: int, width_px: int, tissue: NDArray[np.bool_] | None = None) -> int:
        """See `encode.ScratchEncoder.scratch_bytes`; there is no pass over tissue alone."""
        if tissue is not None:
            raise UsageError("a GPU reads the background too; use --background read, or --device cpu")
        return disk_bytes(self._plan_sweep(height_px=height_px, width_px=width_px))

    def memory_in_words(self, *, height_px: int, width_px: int) -> str:
        """See `encode.ScratchEncoder.memory_in_words`."""
        plan = self._plan_sweep(height_px=height_px, width_px=width_px)
        needed = device_bytes(plan, d_state=self.forward.config.d_state)
        rows = plan.stages[0].strip_rows
        return f"up to {needed / 1e9:.2f} GB of device memory for strips of {4 * rows} px"

    def _plan_sweep(
        self, *, height_px: int, width_px: int, strip_rows: list[int] | None = None
    ) -> EncodePlan:
        self._require_tokens(height_px=height_px, width_px=width_px)
        return plan_sweep(
            self.forward.config,
            height_px=height_px,
            width_px=width_px,
            dtype=self.forward.dtype,
            free_bytes=int(_SHARE_PLANNED * self._allowed_bytes()),
            strip_rows=strip_rows,
        )

    def _require_tokens(self, *, height_px: int, width_px: int) -> None:
        sizes = self.forward.sizes(height_px=height_px, width_px=width_px)
        if min(min(size.height, size.width) for size in sizes) < 1:
            raise UsageError(f"a region of {width_px} x {height_px} px is too small for this backbone")

    def _check(self, *, height_px: int, width_px: int) -> None:
        self._require_tokens(height_px=height_px, width_px=width_px)
        needed, allowed = (
            self.forward.peak_bytes(height_px=height_px, width_px=width_px),
            self._allowed_bytes(),
        )
        if needed > allowed:
            raise MemoryLimitError(
                f"a region of {width_px} x {height_px} px needs up to {needed / 1e9:.1f} GB of device memory, but "
                f"{allowed / 1e9:.1f} GB are left; use a smaller --region-px or a higher --memory-limit-gb"
            )

    def _allowed_bytes(self) -> int:
        if not self._on_gpu:
            return self._memory_limit if self._memory_limit is not None else 2**63
        free, _ = torch.cuda.mem_get_info(self.forward.device)
        # What torch holds but does not use is free to us.
        reserved = torch.cuda.memory_reserved(self.forward.device)
        free += reserved - torch.cuda.memory_allocated(self.forward.device)
        return free if self._memory_limit is None else min(free, self._memory_limit)


class _Upload:
    """Two page-locked buffers and a stream: one is filled while the other is on its way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor | None] = [None, None]
        self._sent = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._turn = 0

    def send(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the pixels on the device; the current stream waits for them, the caller does not."""
        turn, self._turn = self._turn, 1 - self._turn
        self._sent[turn].synchronize()  # the buffer's last content has left
        buffer = self._buffers[turn]
        if buffer is None or buffer.numel() < pixels.size:
            buffer = self._buffers[turn] = torch.empty(pixels.size, dtype=torch.uint8, pin_memory=True)
        staged = buffer[: pixels.size].view(pixels.shape)
        staged.copy_(torch.from_numpy(pixels))
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            on_device = torch.empty(pixels.shape, dtype=torch.uint8, device=self._device)
            on_device.copy_(staged, non_blocking=True)
            self._sent[turn].record()
        compute.wait_stream(self._stream)
        on_device.record_stream(compute)
        return on_device


class _Recorded:
    """A forward pass recorded once per image size as a CUDA graph; the oldest size is dropped."""

    def __init__(self, forward: CudaForward) -> None:
        self._forward = forward
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """As `CudaForward`; the result is overwritten by the next call with the same size."""
        key = tuple(pixels.shape)
        if key not in self._graphs:
            if len(self._graphs) == _MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = self._record(pixels)
        graph, static_pixels, features = self._graphs[key]
        static_pixels.copy_(pixels)
        graph.replay()
        return features

    def _record(self, pixels: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        static_pixels = pixels.clone()
        self._forward(static_pixels)  # compiles kernels and picks algorithms, which cannot be recorded
        torch.cuda.synchronize(pixels.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            features = self._forward(static_pixels)
        return graph, static_pixels, features
