"""The backbone ``onnx``: a file, run by onnxruntime, in place of a network of this package."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD, Rgb
from wsi_vmamba.onnx_file.session import OnnxSession
from wsi_vmamba.onnx_file.write import MAP_BYTES, OURS

#: Windows in one forward pass of a file whose images are of one size.
BATCH = 16
#: Side of the picture by which a file of free sizes is asked for its stride.
_TRIAL_PX = 256


class OnnxBackbone(nn.Module):
    """What a file makes of pictures, as maps.

    A file whose images may have any size gets whole regions and its own map is the result. One whose images have one
    size gets the region in windows of that size, which know nothing of each other: a token is a window.
    """

    #: The file computes as it was written; no autocast reaches it.
    computes_as_stored = True

    def __init__(self, session: OnnxSession) -> None:
        """Take over an open file and run it once, to know its stride and features.

        Raises:
            WeightsError: its first output is not (B, d, h, w), or (B, d) of images of one size.
        """
        super().__init__()
        self._session = session
        facts = session.facts
        self.mean, self.std = (
            _rgb(facts.get(OURS + key)) or usual
            for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        self.sees_whole_regions = session.px is None
        side_px = session.px or _TRIAL_PX
        trial = session.run(np.zeros((1, 3, side_px, side_px), np.float32))[0]
        if trial.ndim not in (2, 4) or (trial.ndim == 2 and session.px is None):
            wanted = "(B, d, h, w)" if session.px is None else "(B, d, h, w) or (B, d)"
            raise WeightsError(
                f"the first output of {session.path} has shape {trial.shape}; expected {wanted}"
            )
        self.dim = int(trial.shape[1])
        self.stride_px = session.px or self._stride(trial, session.path)
        self._map_bytes = float(facts.get(OURS + MAP_BYTES, 0))
        # What was computed with is told by a hash of the parameters: here they are the file.
        self.register_buffer("file", torch.tensor(list(bytes.fromhex(session.digest)), dtype=torch.uint8))

    @staticmethod
    def _stride(trial: NDArray[np.float32], path: Path) -> int:
        rows, columns = trial.shape[2:]
        if rows != columns or _TRIAL_PX % rows:
            raise WeightsError(
                f"{path} makes {rows} x {columns} tokens of {_TRIAL_PX} x {_TRIAL_PX} px; expected a map with one "
                "stride that divides them"
            )
        return _TRIAL_PX // int(rows)

    def needed_bytes(self, height_px: int, width_px: int) -> int:
        """Memory that a picture needs, about; 0 where the file does not say, or takes it in windows."""
        return int(self._map_bytes * height_px * width_px) if self.sees_whole_regions else 0

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised (B, 3, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride)), on the device of ``x``."""
        pixels = x.detach().float().cpu()
        maps = self._maps(pixels) if self.sees_whole_regions else self._windows(pixels)
        return maps.to(x.device)

    def _maps(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(pixels.numpy())[0])

    def _windows(self, pixels: Tensor) -> Tensor:
        """One feature per window; white right of the pictures and below them fills the last ones."""
        side, (height, width) = self.stride_px, pixels.shape[2:]
        white = torch.tensor([(1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)])
        rows, columns = -(-height // side), -(-width // side)
        filled = white.view(1, 3, 1, 1).repeat(len(pixels), 1, rows * side, columns * side)
        filled[:, :, :height, :width] = pixels
        windows = rearrange(filled, "b c (rows y) (cols x) -> (b rows cols) c y x", y=side, x=side)
        features = torch.cat([self._pooled(part) for part in torch.split(windows, BATCH)])
        return rearrange(features, "(b rows cols) d -> b d rows cols", b=len(pixels), rows=rows)

    def _pooled(self, windows: Tensor) -> Tensor:
        found = torch.from_numpy(self._session.run(windows.numpy())[0])
        return found if found.ndim == 2 else found.mean(dim=(2, 3))


def _rgb(text: str | None) -> Rgb | None:
    return None if text is None else cast(Rgb, tuple(float(one) for one in text.split()))


def build(name: str, *, num_classes: int | None, weights: str | Path | None, seed: int) -> OnnxBackbone:
    """Open the file that stands for the backbone.

    Raises:
        UsageError: no file is given, a head is asked for, or onnxruntime is not installed.
        WeightsError: the file is damaged, or its input or output is of another form.
    """
    if num_classes is not None:
        raise UsageError(f"backbone {name!r} is for features and gets no head; leave num_classes out")
    if weights is None:
        raise UsageError(f"backbone {name!r} is a file; give it with --weights FILE.onnx")
    return OnnxBackbone(OnnxSession(Path(weights)))
