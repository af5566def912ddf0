"""The detector: a VMamba, a norm for each of its four maps, the pyramid, and torchvision's Mask R-CNN."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wsi_vmamba.dense.model_file import ModelFile
from wsi_vmamba.detection.objects import Cut, Objects, cut_out, make_objects
from wsi_vmamba.detection.torchvision_parts import mask_rcnn, pyramid
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash

#: Maps of the pyramid: four of the backbone and one more.
_N_MAPS = 5
#: A pixel belongs to a mask from this probability on.
_MASK_FROM = 0.5


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """All that is needed to build a detector again.

    Attributes:
        backbone: name of the VMamba.
        classes: names of what it finds.
        width: channels of the pyramid.
        smallest_px: side of the smallest anchors.
        sides_px: shorter and longer side that pictures are resized to; None leaves them.
        most_objects: found in one picture at most.
        target_mpp: um per pixel of the pictures it learned from; None of photographs.
    """

    backbone: str
    classes: tuple[str, ...]
    width: int
    smallest_px: int
    sides_px: tuple[int, int] | None
    most_objects: int
    target_mpp: float | None


#: The files of detectors.
DETECTORS = ModelFile(kind="detector", command="train-detector", spec=DetectorSpec)


class PyramidBackbone(nn.Module):
    """Images to the maps of the pyramid."""

    def __init__(self, vmamba: VMamba, *, width: int) -> None:
        """Put a norm and the pyramid over the stages of ``vmamba``, whose classifier is not used."""
        super().__init__()
        self.vmamba = vmamba
        vmamba.classifier.requires_grad_(False)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in vmamba.config.dims)
        self.fpn = pyramid(vmamba.config.dims, width=width)
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), normalised, to maps (B, width, ~H/s, ~W/s) of the strides s 4, 8, 16, 32 and 64."""
        maps = self.vmamba.forward_stages(images)
        normed = OrderedDict(
            (str(stage), norm(one.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            for stage, (norm, one) in enumerate(zip(self.norms, maps, strict=True))
        )
        found: dict[str, Tensor] = self.fpn(normed)
        return found


class Detector(nn.Module):
    """A detector and what it was built from."""

    def __init__(self, spec: DetectorSpec, vmamba: VMamba, *, seed: int) -> None:
        """Put new layers, drawn from ``seed``, over a backbone; the caller's random stream is left alone.

        Raises:
            UsageError: torchvision is missing.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.rcnn = mask_rcnn(
                PyramidBackbone(vmamba, width=spec.width),
                n_classes=len(spec.classes),
                anchors_px=tuple(spec.smallest_px << place for place in range(_N_MAPS)),
                width=spec.width,
                sides_px=spec.sides_px,
                mean=vmamba.mean,
                std=vmamba.std,
                most_objects=spec.most_objects,
            )
        self.spec = spec

    @property
    def vmamba(self) -> VMamba:
        """The backbone."""
        found: VMamba = self.rcnn.backbone.vmamba
        return found

    @property
    def fingerprint(self) -> str:
        """A hash of its weights."""
        return weights_hash(self)

    def packed(self) -> bytes:
        """It as a safetensors file."""
        return DETECTORS.packed(self, self.spec)

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The five losses of a batch of images (3, H, W) of 0 to 1, in training mode."""
        found: dict[str, Tensor] = self.rcnn(images, targets)
        return found

    @torch.no_grad()
    def find(self, images: list[Tensor], *, least_score: float) -> list[Objects]:
        """The objects of images (3, H, W) of 0 to 1, in evaluation mode, from the highest score down."""
        found: list[dict[str, Tensor]] = self.rcnn(images)
        return [_objects(one, least_score) for one in found]


def read_detector(place: str | Path, *, device: str = "cpu") -> Detector:
    """Read a detector, in evaluation mode.

    Args:
        place: the file, or the folder that it lies in.
        device: where it shall compute.

    Raises:
        WeightsError: there is none, it is something else, damaged, or of a newer version.
        UsageError: torchvision is not installed.
    """
    file, spec = DETECTORS.find(place)
    detector = Detector(spec, variant(spec.backbone, num_classes=1, weights=None, seed=0), seed=0)
    DETECTORS.fill(detector, file)
    return detector.to(device).eval()


def _objects(found: dict[str, Tensor], least_score: float) -> Objects:
    chosen = found["scores"] >= least_score
    boxes = found["boxes"][chosen].double().cpu().numpy()
    masks = (found["masks"][chosen, 0] >= _MASK_FROM).cpu().numpy()
    cuts: list[Cut] = [cut_out(mask) for mask in masks]
    return make_objects(
        boxes,
        found["labels"][chosen].cpu().numpy() - 1,
        cuts,
        scores=found["scores"][chosen].double().cpu().numpy(),
    )
