"""Distillation by value, with teachers that are made here: a backbone of colours, and a stand-in for onnxruntime."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from wsi_vmamba.config.pretrain import DistilSettings
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.objectives.base import Moment
from wsi_vmamba.pretraining.objectives.distil import Distil
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.teachers import BackboneTeacher, build_teacher


class Means(nn.Module):
    """A backbone that hands on its normalised input, and a learner whose features are the mean colours."""

    dim, stride_px, mean, std = 3, 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def forward_features(self, x):
        return x

    def features(self, pixels):
        return pixels.float().mean(dim=(1, 2)) / 255 + torch.tensor([0.5, 0.0, 0.0])


def colours(*rgb):
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None, :].expand(-1, 4, 4, 3)


LARGE = (colours((10, 20, 30), (200, 0, 50)), colours((30, 20, 10), (100, 100, 0)))
SMALL = (colours((90, 80, 70), (5, 6, 7)),)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_the_loss_compares_a_large_view_with_itself_and_a_small_one_with_its_square(distance):
    objective = Distil(DistilSettings(distance=distance), BackboneTeacher(Means(), teacher_px=8), dim=3)
    batch = Batch(large=LARGE, small=SMALL)
    outcome = objective(Means(), Means(), batch, Moment(step=0, total=1), Ranks())

    def mean(views):
        return np.concatenate([view.numpy()[:, 0, 0] for view in views]) / 255

    large = mean(LARGE)
    told = np.concatenate([large, (large[:2] + large[2:]) / 2])
    said = mean((*LARGE, *SMALL)) + np.array([0.5, 0, 0])
    if distance == "cosine":
        each = 1 - (said * told).sum(1) / np.linalg.norm(said, axis=1) / np.linalg.norm(told, axis=1)
    else:
        wanted = (told - told.mean(1, keepdims=True)) / np.sqrt(told.var(1, keepdims=True) + 1e-5)
        each = ((said - wanted) ** 2).mean(1)
    assert outcome.loss.item() == pytest.approx(each.mean(), rel=1e-4)


def test_the_teacher_is_no_part_of_the_checkpoint_but_of_what_must_stay_the_same():
    objective = Distil(DistilSettings(), BackboneTeacher(Means(), teacher_px=None), dim=5)
    assert objective.state_dict() == {}
    assert objective.head()[-1].out_features == 3
    assert len(objective.identity()["teacher"]) == 64


def test_an_onnx_file_is_run_on_resized_normalised_images(tmp_path, monkeypatch):
    seen = []

    class Session:
        def __init__(self, path, providers):
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self):
            return [types.SimpleNamespace(name="pixels")]

        def run(self, outputs, inputs):
            seen.append(inputs["pixels"])
            return [inputs["pixels"][:, :2]]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    file = tmp_path / "teacher.onnx"
    with pytest.raises(UsageError, match="no teacher at"):
        build_teacher(DistilSettings(teacher=str(file)), seed=0)
    file.write_bytes(b"onnx")
    teacher = build_teacher(DistilSettings(teacher=str(file), teacher_px=6), seed=0)
    assert teacher.dim == 2
    found = teacher.features(LARGE[0])
    assert seen[-1].shape == (2, 3, 6, 6)
    expected = (np.array([[10, 20], [200, 0]]) / 255 - [0.485, 0.456]) / [0.229, 0.224]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_a_teacher_needs_is_said():
    with pytest.raises(UsageError, match=r"distil\.teacher=NAME"):
        build_teacher(DistilSettings(), seed=0)
