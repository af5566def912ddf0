"""A baseline of timm through `extract`: the same patches as any other backbone. timm itself is a stand-in."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import torch
from torch import nn

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features

SPEC = CohortSpec(slides=1, seed=3, width_px=(1024, 1024), height_px=(768, 768))


class ColourMeans(nn.Module):
    num_features = 3
    pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "classifier": "fc"}  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


def test_a_baseline_keeps_the_patches_of_the_null_backbone(tmp_path, monkeypatch):
    module = ModuleType("timm")
    module.create_model = lambda name, *, pretrained, num_classes: ColourMeans()
    monkeypatch.setitem(sys.modules, "timm", module)
    generate_slide(SPEC, 0, tmp_path / "slides")
    for backbone in ("null", "timm_resnet152"):
        how = {"slides": str(tmp_path / "slides"), "out": str(tmp_path / backbone), "backbone": backbone,
               "weights": "random", "target_mpp": 0.5, "precision": "fp32"}  # fmt: skip
        assert extract.run(ExtractConfig.model_validate(how)) is True
    plain, baseline = (open_features(next((tmp_path / b).glob("*.zarr"))) for b in ("null", "timm_resnet152"))
    np.testing.assert_array_equal(plain.coords_l0[:], baseline.coords_l0[:])
    # The first three features of the null backbone are the normalised colour means of the patch.
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = plain.features[:, :3].astype(np.float32) * std + mean
    np.testing.assert_allclose(baseline.features[:].astype(np.float32), wanted, atol=5e-3)
