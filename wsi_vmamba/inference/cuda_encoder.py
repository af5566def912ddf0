"""The GPU encoder: regions in, features out, with upload, computation and download overlapping.

`CudaEncoder.submit` returns as soon as the work is queued: pixels go through page-locked memory on a stream of their
own, so the next region is decoded and uploaded while this one is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.device import Precision
from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference.cuda_forward import CudaForward
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Image sizes whose kernels are kept recorded when graphs are asked for.
_MAX_GRAPHS = 4


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

    def _check(self, *, height_px: int, width_px: int) -> None:
        sizes = self.forward.sizes(height_px=height_px, width_px=width_px)
        if min(min(size.height, size.width) for size in sizes) < 1:
            raise UsageError(f"a region of {width_px} x {height_px} px is too small for this backbone")
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
