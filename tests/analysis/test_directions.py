"""Scans taken away: against a network whose scan is replaced, and tiles that only some scans can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsi_vmamba.analysis.ablation import without_scans
from wsi_vmamba.analysis.directions import REMOVED, measure_directions
from wsi_vmamba.analysis.network import features_of, images_of
from wsi_vmamba.analysis.scan_order import scan_outputs
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import ss2d
from wsi_vmamba.model.ss2d import SS2D
from wsi_vmamba.probing.tiles import find_tiles


def pictures(count: int = 2, side_px: int = 32) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8)


@pytest.fixture(params=[{}, {"gated": True, "mlp_ratio": 0.0}, {"share_directions": True}])
def network(request, small_network: Callable[..., object]):
    return small_network(**request.param)


def test_without_all_four_the_branch_is_that_of_a_scan_of_zeros(
    network, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features_of(without_scans(network.model, (0, 1, 2, 3)), pictures())
    monkeypatch.setattr(ss2d, "ss2d_scan", lambda u, *_: torch.zeros_like(u))
    np.testing.assert_array_equal(found, features_of(network.model, pictures()))


def test_without_all_four_and_a_norm_without_bias_the_branch_adds_nothing(small_network) -> None:
    model = small_network().model
    for module in model.modules():
        if isinstance(module, SS2D):
            module.out_norm.bias.data.zero_()
    found = features_of(without_scans(model, (0, 1, 2, 3)), pictures())
    for module in model.modules():
        if isinstance(module, SS2D):
            module.out_proj.weight.data.zero_()
    np.testing.assert_allclose(found, features_of(model, pictures()), atol=1e-6)


@pytest.mark.parametrize("removed", [(0,), (3,), (1, 2)])
def test_what_is_left_is_the_sum_of_the_other_scans(
    network, removed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scan alone comes from elsewhere: with a skip of its own added, those that are left are summed."""
    found = features_of(without_scans(network.model, removed), pictures())
    whole_scan = ss2d.ss2d_scan

    def of_the_rest(u, proj, dt_weight, dt_bias, A_logs, Ds):
        monkeypatch.setattr(ss2d, "ss2d_scan", whole_scan)
        op = next(m for m in network.model.modules() if isinstance(m, SS2D) and m.d_inner == u.shape[-1])
        state = A_logs.shape[1]
        left = [one for one in range(4) if one not in removed]
        parts = []
        for one in left:
            chosen = proj.reshape(*proj.shape[:-1], 4, -1).clone()
            for other in {0, 1, 2, 3} - {one}:
                chosen[..., other, op.dt_rank + state :] = 0
            none = torch.zeros_like(Ds)
            parts.append(whole_scan(u, chosen.flatten(-2), dt_weight, dt_bias, A_logs, none))
            parts.append(u * Ds.view(4, -1)[one])
        monkeypatch.setattr(ss2d, "ss2d_scan", of_the_rest)
        return torch.stack(parts).sum(0)

    monkeypatch.setattr(ss2d, "ss2d_scan", of_the_rest)
    np.testing.assert_allclose(found, features_of(network.model, pictures()), rtol=1e-3, atol=2e-4)


def test_the_scans_alone_add_up_to_the_scan_of_the_network(network) -> None:
    op = network.model.layers[0].blocks[0].op
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 5, 8))).float()
    u, proj, _ = op.scan_inputs(x)
    skip = u * op.scan_parameters()[4].view(4, -1).sum(0)
    whole = ss2d.ss2d_scan(u.contiguous(), proj, *op.scan_parameters()[1:])
    torch.testing.assert_close(scan_outputs(op, u, proj).sum(0) + skip, whole, rtol=1e-4, atol=1e-4)


def test_the_network_that_is_given_stays_as_it_is(small_network) -> None:
    model = small_network(share_directions=True).model
    before = {name: values.clone() for name, values in model.state_dict().items()}
    without_scans(model, (2,))
    for name, values in model.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)
    with pytest.raises(UsageError, match=r"different numbers from 0 to 3, got \[1, 1\]"):
        without_scans(model, (1, 1))
    with pytest.raises(UsageError, match=r"got \[4\]"):
        without_scans(model, (4,))


def test_changes_are_cosines_with_the_whole_network(small_network) -> None:
    network = small_network()
    found = measure_directions(network, pictures())
    assert [one.removed for one in found.changes] == list(REMOVED)
    assert len(REMOVED) == 1 + 4 + 6 + 1
    np.testing.assert_allclose(found.changes[0].token_cosine, 1, atol=1e-9)
    with torch.inference_mode():
        whole, less = (
            model.forward_features(images_of(model, pictures()))
            for model in (network.model, without_scans(network.model, (0, 2)))
        )
    expected = torch.nn.functional.cosine_similarity(whole, less, dim=1).mean(dim=(1, 2))
    place = REMOVED.index((0, 2))
    np.testing.assert_allclose(found.changes[place].token_cosine, expected.numpy(), atol=1e-5)
    assert found.changes[place].token_cosine.max() < 0.99


def write_tiles(folder: Path) -> Path:
    """Two classes of noise in three groups, one brighter."""
    rng = np.random.default_rng(0)
    lines = ["file,group"]
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 100, (32, 32, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
            lines.append(f"{name}/{number}.png,g{number % 3}")
    (folder / "groups.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_a_probe_judges_every_version_against_the_whole_on_the_same_tiles(
    small_network, tmp_path: Path
) -> None:
    network = small_network()
    for module in network.model.modules():
        if isinstance(module, SS2D):
            # Scan 3 gives nothing already, so that nothing can be missed.
            module.x_proj_weight.data[3, module.dt_rank + module.d_state :] = 0
            module.Ds.data[3 * module.d_inner :] = 0
    tiles = find_tiles(write_tiles(tmp_path / "tiles"))
    found = measure_directions(network, pictures(), tiles=tiles, bootstrap=100)
    assert found.judged is not None
    whole, idle = found.judged.comparisons[0], found.judged.comparisons[REMOVED.index((3,))]
    assert whole.metrics["auc"].value > 0.9
    assert whole.differences == {}
    assert (idle.differences["auc"].value, idle.differences["auc"].low, idle.differences["auc"].high) == (
        0,
        0,
        0,
    )
    assert found.judged.drawn == "tiles within groups"
    rows = {(row[0], row[1]): row for row in found.sheets()["probe"].rows}
    assert rows["none", "auc"][5:] == ("", "", "")
    assert rows["columns reversed", "auc"][2:5] == rows["none", "auc"][2:5]
    assert len(found.to_dict()["probe"]["without"]) == 12
