"""Losses and scores: by hand, where the numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsi_vmamba.metrics.detections import Detections, FrocSlide
from wsi_vmamba.metrics.lesions import find_lesions
from wsi_vmamba.segmentation.classes import ClassTable
from wsi_vmamba.segmentation.losses import confusion, dice_and_iou, dice_loss, segmentation_loss, targets_of
from wsi_vmamba.segmentation.scores import JudgedSlide, score

TABLE = ClassTable(names=("tumour", "fat"), outside="background")


def test_confusion_dice_and_iou_by_hand():
    truth = np.array([[0, 0, 1, 1], [1, 1, 2, 255]], np.uint8)
    found = np.array([[0, 1, 1, 1], [1, 0, 1, 2]], np.uint8)
    counts = confusion(truth, found, classes=2)
    assert counts.tolist() == [[1, 1, 0], [1, 3, 0], [0, 1, 0]]
    dice, iou = dice_and_iou(counts)
    np.testing.assert_allclose(dice, [2 / 4, 6 / 9, 0])
    np.testing.assert_allclose(iou, [1 / 3, 3 / 6, 0])
    assert math.isnan(dice_and_iou(confusion(truth[:, :2], found[:1, :2].repeat(2, 0), classes=3))[0][3])


def test_losses_by_hand():
    targets = torch.tensor([[[0, 1, 255]]])
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    # Shares of one half: entropy log 2; each class has overlap 1/2 and sizes 1 + 1, smoothed by one.
    assert dice_loss(logits, targets).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1))
    loss = segmentation_loss(logits, targets, dice_weight=2.0)
    assert loss.item() == pytest.approx(math.log(2) + 2 * (1 - 2 / 3))
    loss.backward()
    assert (logits.grad[..., 2] == 0).all()
    assert (logits.grad[..., :2] != 0).all()
    nothing = segmentation_loss(logits, torch.full((1, 1, 3), 255), dice_weight=1.0)
    assert nothing.item() == 0
    assert targets_of(np.array([[1, 2, 255]], np.uint8), first=1).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_dice_is_that_of_the_plain_formula(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 9, 11, generator=generator, requires_grad=True)
    targets = torch.randint(0, classes, (2, 9, 11), generator=generator)
    targets[torch.rand(2, 9, 11, generator=generator) < 0.3] = 255
    targets[targets == 3] = 4  # a class that is not shown
    known = (targets != 255)[:, None]
    shares = logits.softmax(dim=1) * known
    truth = F.one_hot(targets.masked_fill(~known[:, 0], 0), classes).permute(0, 3, 1, 2) * known
    shown = [number for number in range(classes) if (targets == number).any()]
    dice = [
        (2 * (shares * truth)[:, number].sum() + 1) / ((shares + truth)[:, number].sum() + 1)
        for number in shown
    ]
    expected = torch.stack([1 - one for one in dice]).mean()
    found = dice_loss(logits, targets)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (of_found,) = torch.autograd.grad(found, logits)
    (of_expected,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-5, atol=1e-7)


def judged(name: str, counts: list[list[int]], *, lesion: bool = True) -> JudgedSlide:
    mask = np.zeros((80, 80), np.uint8)
    mask[10:60, 10:60] = 255
    found = Detections(probability=np.array([0.9]), x_l0=np.array([32 * 30.0]), y_l0=np.array([32 * 30.0]))
    lesions = find_lesions(mask, name=name) if lesion else None
    return JudgedSlide(
        slide_id=name, counts=np.array(counts), froc=FrocSlide(name=name, lesions=lesions, detections=found)
    )


def test_scores_pool_cells_and_draw_slides():
    slides = [
        judged("a", [[50, 10, 0], [10, 30, 0], [0, 0, 0]]),
        judged("b", [[80, 0, 0], [0, 20, 0], [0, 0, 0]]),
        judged("c", [[90, 10, 0], [0, 0, 0], [0, 0, 0]], lesion=False),
    ]
    found = score(slides, TABLE, seen=["b", "x"], resamples=200, seed=0)
    tumour, fat = found.classes
    assert tumour.dice == pytest.approx(2 * 50 / (60 + 70))
    assert tumour.iou == pytest.approx(50 / 80)
    assert tumour.n_slides == 2
    # Drawn twice are a or b, beside c: Dice between those of (a, a, c) and (b, b, c).
    assert tumour.dice_ci95 == pytest.approx((120 / 170, 80 / 90), abs=1e-9)
    assert math.isnan(fat.dice)
    assert found.mean_dice == tumour.dice
    assert found.seen == ("b",)
    # Both lesions are hit, and the one false positive of three slides costs two of the six rates a little.
    assert found.froc is not None
    assert found.froc.n_lesions == 2
    assert found.rows()[0] == ("a", 0.75, 0.6, 40, 40, "", "", 0, 0)
    assert found.columns()[:3] == ("slide_id", "dice tumour", "iou tumour")
    assert found.to_dict()["classes"][1]["dice"] is None


def test_one_slide_with_the_class_has_no_interval():
    found = score([judged("a", [[5, 1, 0], [1, 3, 0], [0, 0, 0]])], TABLE, seen=(), resamples=100, seed=0)
    assert math.isnan(found.classes[0].dice_ci95[0])
