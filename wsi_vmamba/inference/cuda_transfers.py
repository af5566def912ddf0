"""Tensors on their way between files and a GPU, one strip ahead or behind: page-locked buffers, streams, threads.

A thread fills one of two host buffers while the other is on its way and the GPU works at what came before. On CPU
tensors the same threads copy without streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from wsi_vmamba.inference.memory import Layout

#: Tensors of one strip, by name.
Named = dict[str, Tensor]
_SLOTS = 2


class Uploads:
    """Tensors that are needed one after another on the device, each set begun when the one before is taken."""

    def __init__(
        self, layout: Layout, fills: Sequence[Callable[[Named], None]], *, device: torch.device
    ) -> None:
        """Begin with the first two.

        Args:
            layout: of a set.
            fills: what fills the tensors of each set, on the host, in a thread.
            device: where they are needed.
        """
        self._fills = fills
        self._lane = _Lane(device)
        self._host = [self._lane.on_host(layout) for _ in range(_SLOTS)]
        self._device = [self._lane.on_device(layout) for _ in range(_SLOTS)]
        self._arrived: list[torch.cuda.Event | None] = [None] * _SLOTS
        self._jobs: deque[Future[None]] = deque()
        self._taken = 0
        for i in range(min(_SLOTS, len(fills))):
            self._begin(i)

    def take(self) -> Named:
        """The next set, uninitialised where its fill did not fill it; valid until the next one is taken."""
        i, self._taken = self._taken, self._taken + 1
        if i > 0 and i + 1 < len(self._fills):
            self._begin(i + 1)  # into the slot of the set before this one, which nobody needs any more
        self._jobs.popleft().result()
        self._lane.let_wait(self._arrived[i % _SLOTS])
        return self._device[i % _SLOTS]

    def close(self) -> None:
        """Wait for what is on its way; nothing that was taken is valid any more."""
        self._lane.close()

    def _begin(self, i: int) -> None:
        self._jobs.append(self._lane.submit(self._move, i, self._lane.mark()))

    def _move(self, i: int, used: torch.cuda.Event | None) -> None:
        slot = i % _SLOTS
        _wait(self._arrived[slot])  # the host's buffer has left
        self._fills[i](self._host[slot])
        with self._lane.after(used):
            for name, tensor in self._host[slot].items():
                self._device[slot][name].copy_(tensor, non_blocking=True)
            self._arrived[slot] = self._lane.mark()


class Downloads:
    """Tensors that go from the device to whoever keeps them, while the device goes on."""

    def __init__(self, layout: Layout, *, device: torch.device) -> None:
        """``layout`` is of the largest set; tensors may be shorter along their first axis."""
        self._lane = _Lane(device)
        self._host = [self._lane.on_host(layout) for _ in range(_SLOTS)]
        self._jobs: deque[Future[None]] = deque()
        self._sent = 0

    def send(self, tensors: Mapping[str, Tensor], then: Callable[[Named], None]) -> None:
        """Copy tensors, which may be changed when this returns; ``then`` takes them on the host, in a thread, in order.

        Raises what an earlier ``then`` raised.
        """
        if len(self._jobs) == _SLOTS:
            self._jobs.popleft().result()
        slot, self._sent = self._host[self._sent % _SLOTS], self._sent + 1
        staged = {name: tensor.clone() for name, tensor in tensors.items()}
        host = {name: slot[name][: len(tensor)] for name, tensor in staged.items()}
        with self._lane.after(self._lane.mark()):
            for name, tensor in staged.items():
                host[name].copy_(tensor, non_blocking=True)
                self._lane.hold(tensor)
            left = self._lane.mark()
        self._jobs.append(self._lane.submit(self._hand_on, host, left, then))

    def drain(self) -> None:
        """Wait until all is kept, and raise what went wrong."""
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Wait for what is under way; what has not begun is dropped: `drain` first where all went well."""
        self._lane.close()

    @staticmethod
    def _hand_on(host: Named, left: torch.cuda.Event | None, then: Callable[[Named], None]) -> None:
        _wait(left)
        then(host)


class _Lane:
    """A stream beside the one that computes, and a thread that serves it; off CUDA the thread alone."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "wsi-vmamba-transfers")

    def on_host(self, layout: Layout) -> Named:
        pinned = self._stream is not None
        return {
            name: torch.empty(shape, dtype=dtype, pin_memory=pinned)
            for name, (shape, dtype) in layout.items()
        }

    def on_device(self, layout: Layout) -> Named:
        return {
            name: torch.empty(shape, dtype=dtype, device=self._device)
            for name, (shape, dtype) in layout.items()
        }

    def submit(self, job: Callable[..., None], *values: object) -> Future[None]:
        return self._thread.submit(_infer, job, *values)

    def mark(self) -> torch.cuda.Event | None:
        """An event behind all that the current stream has been given."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def let_wait(self, event: torch.cuda.Event | None) -> None:
        """Let the current stream wait for an event."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)

    @contextmanager
    def after(self, event: torch.cuda.Event | None) -> Iterator[None]:
        """Have what is begun inside run on the own stream, after an event."""
        if self._stream is None or event is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(event)
            yield

    def hold(self, tensor: Tensor) -> None:
        """Let the memory of a tensor be used again only when the own stream is through with it."""
        if self._stream is not None:
            tensor.record_stream(self._stream)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._stream is not None:
            self._stream.synchronize()


def _wait(event: torch.cuda.Event | None) -> None:
    if event is not None:
        event.synchronize()


def _infer(job: Callable[..., None], *values: object) -> None:
    with torch.inference_mode():  # a setting of the thread, not of the process
        job(*values)
