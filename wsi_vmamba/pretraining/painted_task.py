"""The painted task: naming the tissue of each square of the last feature map, on generated tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.datasets.synthetic import TUMOUR_INDEX, TileBatch
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.pretraining.batch import Painted
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.painted_tiles import soft_target, view

#: Tiles judged at a time.
_JUDGED = 8


def painted_loss(learner: Learner, painted: Painted) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the tissues of all squares, (), and the pooled features of the windows, (n, dim)."""
    maps = learner.feature_map(painted.images)
    logits = square_logits(learner.backbone, maps)
    loss = -(painted.target * F.log_softmax(logits, dim=-1)).sum(-1).mean()
    return loss, maps.mean(dim=(2, 3))


def square_logits(backbone: VMamba, maps: Tensor) -> Tensor:
    """Logits of the tissues (B, h, w, tissues) of last maps (B, dim, h, w)."""
    logits: Tensor = backbone.classifier.get_submodule("head")(maps.permute(0, 2, 3, 1))
    return logits


@torch.no_grad()
def judge(learner: Learner, chunks: Sequence[TileBatch], *, device: torch.device) -> dict[str, float]:
    """Accuracies on undisturbed tiles, at 1 um per pixel ("far") and at 0.5 ("near")."""
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for name, shrink in (("near", 1), ("far", 2)):
        right, tumour_truth, tumour_score = [], [], []
        for chunk in chunks:
            views = [
                view(rng, image, tissue, side_px=256, shrink=shrink)
                for image, tissue in zip(chunk.images, chunk.tissue, strict=True)
            ]
            target = np.stack([soft_target(squares) for _, squares in views])
            images = torch.from_numpy(np.stack([image for image, _ in views]))
            logits = [
                square_logits(learner.backbone, learner.feature_map(part.to(device)))
                for part in torch.split(images, _JUDGED)
            ]
            scores = torch.cat(logits).softmax(-1).cpu().numpy()
            pure = target.max(axis=-1) > 0.9
            right.append((scores.argmax(-1) == target.argmax(-1))[pure])
            tumour_truth.append(target[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
            tumour_score.append(scores[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
        truth, guess = np.concatenate(tumour_truth), np.concatenate(tumour_score)
        found[f"{name}_square_accuracy"] = round(float(np.concatenate(right).mean()), 4)
        found[f"{name}_tumour_tile_accuracy"] = round(float((truth == guess).mean()), 4)
        found[f"{name}_tumour_sensitivity"] = round(float(guess[truth].mean()), 4)
        found[f"{name}_tumour_specificity"] = round(float(1 - guess[~truth].mean()), 4)
    return found
