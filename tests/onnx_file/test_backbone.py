"""A file as the backbone `onnx`: whole regions or windows, as the file allows, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from .support import WHY, network, session_of

onnx = pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxruntime", reason=WHY)

from wsi_vmamba.encode import build_encoder  # noqa: E402
from wsi_vmamba.errors import MemoryLimitError, UsageError, WeightsError  # noqa: E402
from wsi_vmamba.model import build_backbone  # noqa: E402
from wsi_vmamba.model.normalise import normalise  # noqa: E402
from wsi_vmamba.model.weights import weights_hash  # noqa: E402
from wsi_vmamba.onnx_file.backbone import BATCH  # noqa: E402

SMALL = {"depths": (1, 2), "dims": (16, 32)}


def pixels(height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def of_torch(model, picture: np.ndarray) -> np.ndarray:
    images = normalise(torch.from_numpy(picture)[None], mean=model.mean, std=model.std)
    with torch.no_grad():
        return model.forward_features(images)[0].permute(1, 2, 0).numpy()


def test_a_file_of_any_size_sees_the_region_as_one(tmp_path):
    model = network(**SMALL)
    path = session_of(model, tmp_path).path
    encoder = build_encoder("onnx", weights=path, device="cpu")
    assert (encoder.dim, encoder.stride_px, encoder.precision) == (32, 8, "fp32")
    picture = pixels(1032, 16)  # more than the rows of a band
    np.testing.assert_allclose(encoder.encode(picture), of_torch(model, picture), atol=1e-4)


def test_a_file_of_one_size_sees_windows_and_white_beyond_the_border(tmp_path):
    model = network(**SMALL)
    path = session_of(model, tmp_path, px=32).path
    encoder = build_encoder("onnx", weights=path, device="cpu")
    assert encoder.stride_px == 32
    picture = pixels(32 * (BATCH + 1) + 5, 60)
    features = encoder.encode(picture)
    filled = np.full((32 * (BATCH + 2), 64, 3), 255, np.uint8)
    filled[: picture.shape[0], :60] = picture
    for row, column in ((0, 0), (3, 1), (BATCH + 1, 0), (BATCH + 1, 1)):
        window = filled[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        expected = of_torch(model, window).mean(axis=(0, 1))
        np.testing.assert_allclose(features[row, column], expected, atol=1e-4)
    assert features.shape == (BATCH + 2, 2, 32)


def test_what_was_computed_with_is_known_by_the_file(tmp_path):
    hashes = set()
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        hashes.add(
            weights_hash(build_backbone("onnx", weights=session_of(network(seed, **SMALL), folder).path))
        )
    assert len(hashes) == 2


def written(folder: Path, shape: list, output: list, kind: int = 1) -> Path:
    """A file of somebody else, which passes its input on, averaged where the output has two axes."""
    from onnx import helper

    nodes = [
        helper.make_node("Identity", ["x"], ["y"])
        if len(output) == 4
        else helper.make_node("GlobalAveragePool", ["x"], ["p"])
    ]
    if len(output) == 2:
        nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    ends = [helper.make_tensor_value_info(*one) for one in (("x", kind, shape), ("y", kind, output))]
    built = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    path = folder / "other.onnx"
    path.write_bytes(built.SerializeToString())
    return path


def test_a_file_of_another_tool_is_taken_with_the_numbers_of_imagenet(tmp_path):
    encoder = build_encoder("onnx", weights=written(tmp_path, ["b", 3, 16, 16], ["b", 3]), device="cpu")
    picture = pixels(16, 16)
    expected = (picture / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(encoder.encode(picture)[0, 0], expected.mean(axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "output", "kind", "message"),
    [
        (["b", 3, "h", "w"], ["b", 3], 1, r"expected \(B, d, h, w\)"),
        (["b", 3, 16, 32], ["b", 3, 16, 32], 1, "sides are free or one number"),
        (["b", 4, 16, 16], ["b", 4, 16, 16], 1, "float32 images"),
        (["b", 3, 16, 16], ["b", 3, 16, 16], 10, "float32 images"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, shape, output, kind, message):
    with pytest.raises(WeightsError, match=message):
        build_backbone("onnx", weights=written(tmp_path, shape, output, kind))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"given as a file: --weights FILE, an \.onnx file"):
        build_encoder("onnx")
    with pytest.raises(UsageError, match=r"no weights file at .*none\.onnx"):
        build_encoder("onnx", weights="none.onnx")
    with pytest.raises(UsageError, match="gets no head"):
        build_backbone("onnx", weights="none.onnx", num_classes=2)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"damaged\.onnx is damaged"):
        build_encoder("onnx", weights=damaged)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'wsi-vmamba\[onnx\]'"):
        build_encoder("onnx", weights=damaged)


def test_what_the_file_cannot_do_is_refused(tmp_path):
    path = session_of(network(**SMALL), tmp_path).path
    with pytest.raises(UsageError, match="computes as its file was written"):
        build_encoder("onnx", weights=path, precision="bf16", device="cpu")
    encoder = build_encoder("onnx", weights=path, device="cpu", memory_limit=2**20)
    with pytest.raises(MemoryLimitError, match="a region of 256 x 512 px needs"):
        encoder.encode(pixels(512, 256))
