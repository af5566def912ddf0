"""torchvision, which only detectors need: imported here, on demand, or refused with what to install."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.normalise import Rgb

#: Places of an image that are looked at closely, at least; torchvision's own number.
_PROPOSALS = 1000


def require_torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
        UsageError: it is not installed, or was built for another torch.
    """
    try:
        import torchvision
        import torchvision.models.detection
    # Built for another torch it ends in a RuntimeError ("operator torchvision::nms does not exist").
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UsageError(
            f"detectors are made of torchvision's, which cannot be imported here ({error}): pip install "
            "'wsi-vmamba[detection]', with the release that belongs to the torch that is installed"
        ) from error
    module: ModuleType = torchvision
    return module


def mask_rcnn(
    backbone: Any,
    *,
    n_classes: int,
    anchors_px: tuple[int, ...],
    width: int,
    sides_px: tuple[int, int] | None,
    mean: Rgb,
    std: Rgb,
    most_objects: int,
) -> Any:
    """Build torchvision's Mask R-CNN over the maps "0" to "3" and "pool" of a backbone.

    Args:
        backbone: images to maps of ``width`` channels each.
        n_classes: without the background.
        anchors_px: side of the anchors of each map.
        width: channels of maps and mask head; the box head has four times as many.
        sides_px: shorter and longer side that images are resized to; None leaves them as they are.
        mean: of the images, three numbers.
        std: of the images, three numbers.
        most_objects: found in one image at most.
    """
    require_torchvision()
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops import MultiScaleRoIAlign

    class AsTheyAre(GeneralizedRCNNTransform):  # type: ignore[misc]
        """Normalises and pads images, and leaves their size."""

        def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
            """Both as they came."""
            return image, target

    maps = ["0", "1", "2", "3"]
    hidden = 4 * width
    pool = MultiScaleRoIAlign(maps, output_size=7, sampling_ratio=2)
    short, long = sides_px or (1, 1)
    proposals = max(_PROPOSALS, 4 * most_objects)
    model = MaskRCNN(
        backbone,
        min_size=short,
        max_size=long,
        image_mean=list(mean),
        image_std=list(std),
        box_detections_per_img=most_objects,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_test=proposals,
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in anchors_px), ((0.5, 1.0, 2.0),) * len(anchors_px)
        ),
        box_roi_pool=pool,
        box_head=TwoMLPHead(width * 7 * 7, hidden),
        box_predictor=FastRCNNPredictor(hidden, n_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(maps, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, n_classes + 1),
    )
    if sides_px is None:
        model.transform = AsTheyAre(short, long, list(mean), list(std))
    return model


def pyramid(widths: tuple[int, ...], *, width: int) -> Any:
    """Build torchvision's FPN over maps of ``widths`` channels, with one more map, of half the size of the last."""
    require_torchvision()
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    return FeaturePyramidNetwork(list(widths), width, extra_blocks=LastLevelMaxPool())
