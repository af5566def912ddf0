"""From a picture and its objects to what the detector learns from; both turned alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.detection.coco import CocoPicture, CocoSet
from wsi_vmamba.detection.objects import Boxes, Objects, paste

Turns = Literal["all", "mirror", "none"]
Example = tuple[Tensor, dict[str, Tensor]]
#: Objects whose box has a side below this, in pixels, are not learned from.
_LEAST_SIDE_PX = 1.0


def image_of(pixels: NDArray[np.uint8]) -> Tensor:
    """RGB (H, W, 3) to float32 (3, H, W) of 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


def example_of(pixels: NDArray[np.uint8], objects: Objects, *, quarters: int, mirrored: bool) -> Example:
    """An image and its target, turned by ``quarters`` times 90 degrees to the left, then mirrored.

    Crowds, and objects without a box or a mask, are left out.
    """
    height, width = pixels.shape[:2]
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]).min(axis=1, initial=np.inf)
    seen = np.array([cut.mask.any() for cut in objects.cuts], dtype=np.bool_)
    kept = objects.take(seen & ~objects.crowd & (sides >= _LEAST_SIDE_PX))
    masks = np.zeros((len(kept), height, width), dtype=np.bool_)
    for place, cut in enumerate(kept.cuts):
        masks[place] = paste(cut, width_px=width, height_px=height)
    turned, views = np.rot90(pixels, quarters), np.rot90(masks, quarters, axes=(1, 2))
    boxes = turned_boxes(kept.boxes, quarters=quarters, width_px=width, height_px=height)
    if mirrored:
        turned, views = turned[:, ::-1], views[:, :, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [turned.shape[1], 0, turned.shape[1], 0]
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(kept.labels + 1),
        "masks": torch.from_numpy(np.ascontiguousarray(views).astype(np.uint8)),
    }
    return image_of(turned), target


def turned_boxes(boxes: Boxes, *, quarters: int, width_px: int, height_px: int) -> Boxes:
    """Boxes of a picture of that size, after `numpy.rot90` of it, ``quarters`` times."""
    for _ in range(quarters % 4):
        left, top, right, bottom = boxes.T
        boxes = np.stack([top, width_px - right, bottom, width_px - left], axis=1)
        width_px, height_px = height_px, width_px
    return boxes


def draw_turn(rng: np.random.Generator, turns: Turns) -> tuple[int, bool]:
    """Quarter turns and whether to mirror, at random as far as ``turns`` allows."""
    if turns == "none":
        return 0, False
    return (int(rng.integers(4)) if turns == "all" else 0), bool(rng.integers(2))


def batches(
    data: CocoSet, pictures: Sequence[CocoPicture], *, size: int, turns: Turns, rng: np.random.Generator
) -> Iterator[tuple[list[CocoPicture], list[Tensor], list[dict[str, Tensor]]]]:
    """All pictures once in random order, with their images and targets."""
    order = rng.permutation(len(pictures)).tolist()
    for start in range(0, len(order), size):
        chosen = [pictures[place] for place in order[start : start + size]]
        examples = []
        for picture in chosen:
            quarters, mirrored = draw_turn(rng, turns)
            examples.append(
                example_of(picture.pixels(), data.objects(picture), quarters=quarters, mirrored=mirrored)
            )
        yield chosen, [image for image, _ in examples], [target for _, target in examples]
