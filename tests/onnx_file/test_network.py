"""The graph computes what torch computes, for every layout, at any size, and is made of standard operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.model.variants import VARIANTS

from .support import WHY, network, session_of

onnx = pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxruntime", reason=WHY)

from wsi_vmamba.errors import UsageError  # noqa: E402
from wsi_vmamba.onnx_file.graph import count_nodes  # noqa: E402
from wsi_vmamba.onnx_file.write import OURS, build_model  # noqa: E402

SMALL = {"depths": (1, 2), "dims": (16, 32)}
LAYOUTS = {
    "s1": {},
    "ratio 2": {"ssm_ratio": 2.0},
    "shared": {"share_directions": True},
    "no mlp, downsample 2": {"mlp_ratio": 0.0, "downsample": 2},
    "vanilla": {
        "ssm_ratio": 2.0, "d_state": 3, "mlp_ratio": 0.0, "gated": True, "conv_bias": True, "patch_embed": 1,
        "downsample": 1, "norm_layout": "ln",
    },
}  # fmt: skip


@pytest.mark.parametrize("fields", LAYOUTS.values(), ids=LAYOUTS)
def test_one_file_computes_what_torch_does_at_every_size(tmp_path, fields):
    model = network(**SMALL, **fields)
    session = session_of(model, tmp_path)
    for shape in ((1, 3, 64, 64), (2, 3, 52, 28), (1, 3, 16, 140), (1, 3, 8, 8)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
        with torch.no_grad():
            expected, logits = model.forward_features(images).numpy(), model(images).numpy()
        features, found_logits = session.run(images.numpy())
        assert expected.std() > 0.3
        np.testing.assert_allclose(features, expected, atol=1e-4)
        np.testing.assert_allclose(found_logits, logits, atol=1e-4)
        assert (found_logits.argmax(1) == logits.argmax(1)).all()


def test_the_loops_are_the_recurrence_written_out(tmp_path):
    """Against a loop over tokens in float64 that knows nothing of chunks."""
    model = network(depths=(1,), dims=(8,), mlp_ratio=0.0, patch_embed=1)
    block = model.layers[0].blocks[0]
    session = session_of(model, tmp_path)
    images = torch.randn(1, 3, 20, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model.patch_embed(images)
        u, proj, _ = block.op.double().scan_inputs(block.norm.double()(tokens.double()))
        y = torch.from_numpy(_looped(u[0].numpy(), proj[0].numpy(), block.op))[None]
        tokens = tokens.double() + block.op.out_proj(block.op.out_norm(y))
        expected = model.classifier.norm.double()(tokens).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(session.run(images.numpy())[0], expected, atol=2e-5)


def _looped(u: np.ndarray, proj: np.ndarray, op: torch.nn.Module) -> np.ndarray:
    height, width, channels = u.shape
    rank = op.dt_rank
    y = np.zeros_like(u)
    by_rows = [(row, column) for row in range(height) for column in range(width)]
    by_columns = [(row, column) for column in range(width) for row in range(height)]
    for k, order in enumerate((by_rows, by_columns, by_rows[::-1], by_columns[::-1])):
        A = -np.exp(op.A_logs.detach().numpy()).reshape(4, channels)[k]
        skip = op.Ds.detach().numpy().reshape(4, channels)[k]
        h = np.zeros(channels)
        for place in order:
            low_rank, B, C = np.split(proj[place].reshape(4, rank + 2)[k], [rank, rank + 1])
            raw = op.dt_projs_weight.detach().numpy()[k] @ low_rank + op.dt_projs_bias.detach().numpy()[k]
            dt = np.log1p(np.exp(raw))
            h = np.exp(dt * A) * h + dt * B * u[place]
            y[place] += C * h + skip * u[place]
    return y


def test_step_sizes_beyond_the_range_of_exp_stay_what_they_are(tmp_path):
    model = network(**SMALL)
    with torch.no_grad():
        model.layers[0].blocks[0].op.dt_projs_bias[:, ::2] = 300.0
    session = session_of(model, tmp_path)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model.forward_features(images).numpy()
    np.testing.assert_allclose(session.run(images.numpy())[0], expected, atol=1e-4)


def test_the_small_steps_of_a_long_memory_are_not_rounded_away(tmp_path):
    """softplus(-9) is 1.2e-4, of which a logarithm of 1 + exp(x) keeps three digits; hundreds of them are added."""
    model = network(depths=(1,), dims=(16,), mlp_ratio=0.0)
    with torch.no_grad():
        op = model.layers[0].blocks[0].op
        op.dt_projs_bias.fill_(-9.0)
        op.dt_projs_weight.mul_(0.01)
        op.A_logs.fill_(-2.0)
        op.Ds.zero_()
    session = session_of(model, tmp_path)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(3)) + 2
    with torch.no_grad():
        expected = model.forward_features(images).numpy()
    np.testing.assert_allclose(session.run(images.numpy())[0], expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_only_standard_operators_are_used_and_the_checker_agrees(precision):
    built = build_model(network(**SMALL), name="small", precision=precision)
    onnx.checker.check_model(built, full_check=True)
    assert [(one.domain, one.version) for one in built.opset_import] == [("", 20)]
    assert not built.functions
    assert {node.domain for node in built.graph.node} == {""}


@pytest.mark.parametrize(("name", "most"), [("vmamba_tiny_s1l8", 500), ("vmamba_pico", 400)])
def test_nodes_are_few(name, most):
    """The number does not depend on the widths, so narrow ones are counted."""
    thin = VMambaConfig(depths=VARIANTS[name].depths, dims=(8, 16, 32, 64), num_classes=3)
    graph = build_model(build_backbone(thin), name=name).graph
    assert count_nodes(graph, bodies=False) < most
    assert count_nodes(graph, bodies=True) <= 800


def test_a_fixed_side_is_all_that_the_file_takes(tmp_path):
    model = network(**SMALL)
    session = session_of(model, tmp_path, px=32)
    assert session.px == 32
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = model.forward_features(images).numpy()
    np.testing.assert_allclose(session.run(images.numpy())[0], expected, atol=1e-4)
    with pytest.raises(UsageError, match="at least one token of 8"):
        build_model(model, name="small", px=7)


@pytest.mark.parametrize(("precision", "share", "error"), [("fp16", 0.62, 0.02), ("int8", 0.65, 0.25)])
def test_smaller_files_are_smaller_and_near(tmp_path, precision, share, error):
    model = network(depths=(1, 2), dims=(64, 128))
    whole = session_of(model, tmp_path).path.stat().st_size
    session = session_of(model, tmp_path, precision=precision)
    assert session.path.stat().st_size < share * whole
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = model.forward_features(images).numpy()
    found = session.run(images.numpy())[0]
    assert 0 < np.abs(found - expected).mean() < error * expected.std()


def test_a_file_says_what_it_is(tmp_path):
    model = network(**SMALL)
    facts = session_of(model, tmp_path, precision="fp16", logits=False).facts
    assert facts[OURS + "precision"] == "fp16"
    assert facts[OURS + "stride_px"] == "8"
    assert facts[OURS + "mean"] == "0.485 0.456 0.406"
