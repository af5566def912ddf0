"""What is drawn on a batch: soft labels, mixup, cutmix, erased rectangles, crops; by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wsi_vmamba.crop import middle_square, random_square
from wsi_vmamba.training.mixing import erased, mixed, soft_labels
from wsi_vmamba.training.tiles import mirror


def test_soft_labels_by_hand() -> None:
    found = soft_labels(torch.tensor([2, 0]), classes=4, smoothing=0.2)
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert torch.equal(
        soft_labels(torch.tensor([1]), classes=3, smoothing=0.0), torch.tensor([[0.0, 1.0, 0.0]])
    )


def test_the_loss_with_soft_labels_is_that_of_torch() -> None:
    logits, labels = (
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 3, 1, 1, 2]),
    )
    ours = torch.nn.functional.cross_entropy(logits, soft_labels(labels, classes=4, smoothing=0.1))
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))


def batch(n: int = 4, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Each picture is of one number, and each label of its own class."""
    return torch.arange(1.0, n + 1).view(n, 1, 1, 1).expand(n, 3, side, side).clone(), torch.eye(n)


def test_mixup_blends_pictures_and_labels_alike() -> None:
    images, targets = batch()
    blended, labels = mixed(np.random.default_rng(5), images, targets, mixup=0.8, cutmix=0.0)
    share = np.random.default_rng(5).beta(0.8, 0.8)
    assert 0.01 < share < 0.99
    assert blended[0, 0, 0, 0].item() == pytest.approx(share * 1 + (1 - share) * 4, rel=1e-6)
    assert blended[1, 2, 7, 3].item() == pytest.approx(share * 2 + (1 - share) * 3, rel=1e-6)
    expected = torch.tensor(
        [
            [share, 0, 0, 1 - share],
            [0, share, 1 - share, 0],
            [0, 1 - share, share, 0],
            [1 - share, 0, 0, share],
        ]
    )
    torch.testing.assert_close(labels, expected, check_dtype=False)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_weighs_labels_by_the_pixels_that_are_left(seed: int) -> None:
    images, targets = batch()
    pasted, labels = mixed(np.random.default_rng(seed), images, targets, mixup=0.0, cutmix=1.0)
    for index in range(4):
        own = (pasted[index] == index + 1).float().mean().item()
        other = (pasted[index] == 4 - index).float().mean().item()
        assert own + other == pytest.approx(1)
        assert labels[index, index].item() == pytest.approx(own)
        assert labels[index, 3 - index].item() == pytest.approx(other)
    rows, columns = torch.nonzero(pasted[0, 0] != 1, as_tuple=True)
    if len(rows):  # one rectangle
        assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


def test_with_both_each_batch_has_one_and_with_none_nothing_changes() -> None:
    images, targets = batch()
    whole = sum(
        len(mixed(np.random.default_rng(seed), images, targets, mixup=0.8, cutmix=1.0)[0][0].unique()) == 1
        for seed in range(200)
    )
    # Pasting leaves pictures of one number only where the rectangle is empty or everything.
    assert 85 < whole < 130
    same, labels = mixed(np.random.default_rng(0), images, targets, mixup=0.0, cutmix=0.0)
    assert same is images
    assert labels is targets


def test_the_shares_of_pasted_pixels_are_those_of_the_distribution() -> None:
    images, targets = batch(2, side=64)
    shares = [
        mixed(np.random.default_rng(seed), images, targets, mixup=0.0, cutmix=1.0)[1][0, 1].item()
        for seed in range(800)
    ]
    # Uniform area t in a square of random centre: E = t (1 - sqrt(t) / 4)^2 averaged over t.
    t = (np.arange(10_000) + 0.5) / 10_000
    assert np.mean(shares) == pytest.approx(np.mean(t * (1 - np.sqrt(t) / 4) ** 2), abs=0.02)


def test_erasing_replaces_one_rectangle_of_as_many_pictures_as_asked() -> None:
    images = torch.full((400, 3, 24, 24), 9.0)
    out = erased(np.random.default_rng(0), images, probability=0.25)
    assert torch.equal(images, torch.full((400, 3, 24, 24), 9.0))
    changed = (out != 9).any(dim=1)
    touched = [mask for mask in changed if mask.any()]
    assert len(touched) == pytest.approx(100, abs=25)
    for mask in touched:
        rows, columns = torch.nonzero(mask, as_tuple=True)
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert len(rows) == area
        assert 0.01 < area / 24**2 < 0.4
    noise = out[out != 9]
    assert abs(noise.mean().item()) < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert erased(np.random.default_rng(0), images, probability=0.0) is images


def coordinates(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), np.full_like(x, 7)], axis=-1).astype(
        np.uint8
    )


def test_the_middle_is_the_middle() -> None:
    found = middle_square(coordinates(256, 512), side_px=112).astype(float)
    assert found.shape == (112, 112, 3)
    # 224 of 256 rows, the columns 144 to 368 of 512.
    np.testing.assert_allclose(found[0, :, 1].mean(), 16.5, atol=1.5)
    np.testing.assert_allclose(found[-1, :, 1].mean(), 238.5, atol=1.5)
    np.testing.assert_allclose(found[:, 0, 0].mean(), 144.5 * 255 / 511, atol=1.5)
    np.testing.assert_allclose(found[:, -1, 0].mean(), 366.5 * 255 / 511, atol=1.5)


def test_random_squares_are_parts_of_the_picture_of_every_size() -> None:
    picture = coordinates(200, 300)
    areas = []
    for seed in range(200):
        found = random_square(np.random.default_rng(seed), picture, side_px=48).astype(float)
        assert found.shape == (48, 48, 3)
        assert np.all(found[..., 2] == 7)
        across, down = (
            found[:, -1, 0].mean() - found[:, 0, 0].mean(),
            found[-1, :, 1].mean() - found[0, :, 1].mean(),
        )
        assert across > 0
        assert down > 0
        areas.append(across * down / 255**2)
        ratio = (across * 300) / (down * 200)
        assert 0.7 < ratio < 1.45
    assert min(areas) < 0.15
    assert max(areas) > 0.75
    same = [random_square(np.random.default_rng(3), picture, side_px=48) for _ in range(2)]
    assert np.array_equal(*same)
    assert random_square(np.random.default_rng(0), coordinates(2, 400), side_px=8).shape == (8, 8, 3)


def test_mirroring_exchanges_left_and_right_only() -> None:
    pixels = np.arange(40 * 2 * 3 * 3, dtype=np.uint16).reshape(40, 2, 3, 3).astype(np.uint8)
    found = mirror(np.random.default_rng(0), pixels)
    flipped = [np.array_equal(one, source[:, ::-1]) for one, source in zip(found, pixels, strict=True)]
    kept = [np.array_equal(one, source) for one, source in zip(found, pixels, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 10 < sum(flipped) < 30
    assert math.isclose(sum(flipped) + sum(kept), 40)
