"""Gratings, and turns of pictures, before a network whose symmetries are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.analysis.gratings import DARK, LIGHT, grating
from wsi_vmamba.analysis.scan_order import ScanOrder, measure_scan_order
from wsi_vmamba.analysis.turns import TURNS
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.ss2d import SS2D


def pictures(count: int = 2, side_px: int = 64) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8)


def measure(network, shown: np.ndarray, **changes: object) -> ScanOrder:
    return measure_scan_order(
        network, shown, **{"wavelengths_px": [16.0], "angles": 4, "phases": 2, **changes}
    )


def test_a_grating_has_its_wavelength_angle_and_colours() -> None:
    lying = grating(side_px=64, wavelength_px=16, angle_deg=0, phase=0)
    assert (lying == lying[:, :1]).all()  # stripes along the rows
    np.testing.assert_array_equal(lying[:48], lying[16:])
    np.testing.assert_array_equal(lying[:56, 0, 0].astype(int) + lying[8:, 0, 0], round(DARK[0] + LIGHT[0]))
    upright = grating(side_px=64, wavelength_px=16, angle_deg=90, phase=0)
    np.testing.assert_array_equal(upright, lying.swapaxes(0, 1))
    # Stripes at 45 degrees rise to the right: a step up and one to the right lands on the same colour.
    rising = grating(side_px=64, wavelength_px=16, angle_deg=45, phase=0.3)
    np.testing.assert_array_equal(rising[1:, :-1], rising[:-1, 1:])
    np.testing.assert_array_equal(
        np.rot90(rising), grating(side_px=64, wavelength_px=16, angle_deg=135, phase=0.3)
    )
    shifted = grating(side_px=64, wavelength_px=16, angle_deg=0, phase=0.25)
    np.testing.assert_array_equal(shifted[4:], lying[:-4])


def test_the_eight_turns_differ_and_lead_back() -> None:
    square = np.arange(16).reshape(4, 4)
    there = [turn.there(square) for turn in TURNS.values()]
    assert len({one.tobytes() for one in map(np.ascontiguousarray, there)}) == 8
    for turn, turned in zip(TURNS.values(), there, strict=True):
        np.testing.assert_array_equal(turn.back(turned), square)


def test_a_symmetric_network_knows_no_half_turn_and_no_transpose_but_the_other_turns(
    symmetric_network,
) -> None:
    """Walks start in two corners that lie opposite each other: what exchanges them is no turn that SS2D can see."""
    found = measure(symmetric_network(), pictures())
    cosines = dict(zip(TURNS, found.token_cosine.min(axis=1), strict=True))
    same = {"as it is", "turned 180", "transposed", "transposed the other way"}
    assert {name for name, value in cosines.items() if value > 1 - 1e-5} == same
    assert max(value for name, value in cosines.items() if name not in same) < 0.999


def test_a_picture_that_is_its_own_mirror_image_has_the_features_of_it(small_network) -> None:
    """Whatever the weights: the means of a square that a turn leaves as it is cannot change."""
    half = pictures()[:, :, :32]
    shown = np.concatenate([half, half[:, :, ::-1]], axis=2)
    found = measure(small_network(), shown)
    cosines = dict(zip(TURNS, found.mean_cosine, strict=True))
    np.testing.assert_allclose(cosines["mirrored left-right"], 1, atol=1e-9)
    assert cosines["mirrored up-down"].max() < 1 - 1e-6


def test_scans_by_rows_answer_as_those_by_columns_to_the_transposed_grating(symmetric_network) -> None:
    found = measure(symmetric_network(), pictures(), angles=6, phases=4)
    rows, columns, rows_back, columns_back = np.moveaxis(found.answers[0], 2, 0)
    # Transposed, stripes of an angle have 90 degrees minus it: with steps of 30, place 3 - n.
    transposed = [(3 - n) % 6 for n in range(6)]
    np.testing.assert_allclose(rows[transposed], columns, rtol=1e-4)
    np.testing.assert_allclose(rows_back[transposed], columns_back, rtol=1e-4)
    # Shifts of 0, 1/4, 1/2, 3/4 turned by half are 0, 3/4, 1/2, 1/4: the same ones.
    np.testing.assert_allclose(rows, rows_back, rtol=1e-4)
    preferred, selective = found.tuning()
    assert (preferred[0, 0] + preferred[0, 1]) % 180 == pytest.approx(90, abs=0.1)
    assert selective[0, 0] == pytest.approx(selective[0, 1], rel=1e-4)


def test_without_memory_all_scans_of_shared_weights_answer_alike(symmetric_network) -> None:
    network = symmetric_network()
    for module in network.model.modules():
        if isinstance(module, SS2D):
            module.A_logs.data.fill_(60.0)
    found = measure(network, pictures())
    np.testing.assert_allclose(found.answers, found.answers[..., :1].repeat(4, axis=-1), rtol=1e-5)


def test_long_memory_has_row_scans_answer_to_stripes_along_the_rows(symmetric_network) -> None:
    """What is summed along a row grows where the row is of one colour, and cancels where colours alternate."""
    network = symmetric_network()
    for module in network.model.modules():
        if isinstance(module, SS2D):
            module.A_logs.data.fill_(-1.5)  # a decay over six tokens
            module.x_proj_weight.data[:, : module.dt_rank] = 0
            module.dt_projs_bias.data.fill_(0.0)
    found = measure(network, pictures(count=1, side_px=128), angles=2, wavelengths_px=[32.0])
    lying, upright = found.answers[0, :, 0, :]
    assert lying[0] > 2 * upright[0]  # by rows
    assert upright[1] > 2 * lying[1]  # by columns


def test_unlikeness_is_one_minus_the_cosine_and_shifts_stand_on_the_diagonal(small_network) -> None:
    network = small_network()
    found = measure(network, pictures(), angles=2)
    shown = [
        grating(side_px=64, wavelength_px=16, angle_deg=angle, phase=phase)
        for angle in (0, 90)
        for phase in (0, 0.5)
    ]
    with torch.inference_mode():
        from wsi_vmamba.analysis.network import images_of

        features = network.model.forward_features(images_of(network.model, np.stack(shown))).mean(dim=(2, 3))
    units = torch.nn.functional.normalize(features.double(), dim=1)
    apart = (1 - units @ units.T).numpy()
    expected = [[apart[0, 1], apart[:2, 2:].mean()], [apart[:2, 2:].mean(), apart[2, 3]]]
    np.testing.assert_allclose(found.unlikeness[0], expected, atol=1e-6)
    assert found.between_angles()[0] == pytest.approx(apart[:2, 2:].mean(), abs=1e-6)


def test_a_square_of_broken_tokens_is_refused(small_network) -> None:
    with pytest.raises(UsageError, match=r"60 px is no whole number of tokens of 8 px.*--region-px 64"):
        measure(small_network(), pictures(side_px=60))
