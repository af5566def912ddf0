"""The contract every aggregator keeps; the table decides who is tested."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wsi_vmamba.errors import DatasetError, UnknownNameError, UsageError
from wsi_vmamba.mil import AGGREGATORS, base

DIM = 12
aggregators = pytest.mark.parametrize("name", list(AGGREGATORS))


def build(name: str, **changes):
    torch.manual_seed(0)
    return AGGREGATORS.resolve(name)(DIM, 2, **{"hidden_dim": 16, "dropout": 0.0, **changes}).eval()


def bag(n_cells: int, *, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n_cells, DIM, generator=generator, dtype=dtype)
    places = torch.randperm(4 * n_cells, generator=generator)[:n_cells]
    return features, torch.stack([places % 40, places // 40], dim=1)


@aggregators
@pytest.mark.parametrize("n_cells", [1, 2, 700])
def test_logits_and_attention(name, n_cells):
    logits, attention = build(name)(*bag(n_cells))
    assert logits.shape == (2,)
    assert torch.isfinite(logits).all()
    if attention is not None:
        assert attention.shape == (n_cells,)
        assert (attention >= 0).all()
        assert attention.sum().item() == pytest.approx(1.0, abs=1e-5)


@aggregators
def test_empty_bag_is_a_clear_error(name):
    with pytest.raises(DatasetError, match="the bag is empty"):
        build(name)(torch.zeros(0, DIM), torch.zeros(0, 2, dtype=torch.int64))


@aggregators
@pytest.mark.parametrize(
    ("features", "coords"),
    [
        (torch.zeros(3, DIM + 1), torch.zeros(3, 2, dtype=torch.int64)),
        (torch.zeros(1, 3, DIM), torch.zeros(3, 2, dtype=torch.int64)),
        (torch.zeros(3, DIM), torch.zeros(4, 2, dtype=torch.int64)),
        (torch.zeros(3, DIM), torch.zeros(3, 2)),
    ],
)
def test_wrong_shapes_and_types_are_refused(name, features, coords):
    with pytest.raises(UsageError, match="expected"):
        build(name)(features, coords)


@aggregators
def test_order_of_the_cells_does_not_matter(name):
    model = build(name).double()
    features, coords = bag(500, dtype=torch.float64)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    logits, attention = model(features, coords)
    shuffled_logits, shuffled_attention = model(features[order], coords[order])
    torch.testing.assert_close(shuffled_logits, logits, rtol=1e-12, atol=1e-12)
    if attention is not None:
        torch.testing.assert_close(shuffled_attention, attention[order], rtol=1e-12, atol=1e-15)


@aggregators
def test_cells_matter(name):
    model = build(name)
    assert not torch.equal(model(*bag(50, seed=1)).logits, model(*bag(50, seed=2)).logits)


@aggregators
@pytest.mark.parametrize("chunk_cells", [base.CHUNK_CELLS, 4])
def test_gradients_equal_finite_differences(name, chunk_cells, monkeypatch):
    monkeypatch.setattr(base, "CHUNK_CELLS", chunk_cells)
    model = build(name).double()
    features, coords = bag(11, dtype=torch.float64)

    def logits_of(cells, *parameters):
        named = dict(zip(dict(model.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(model, named, (cells, coords)).logits

    inputs = [features.requires_grad_(), *(p.detach().clone().requires_grad_() for p in model.parameters())]
    assert torch.autograd.gradcheck(logits_of, inputs)


@aggregators
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_pieces_give_the_same_as_the_whole(name, dropout, monkeypatch):
    features, coords = bag(100, dtype=torch.float64)
    found = []
    for chunk_cells in (1000, 7):
        monkeypatch.setattr(base, "CHUNK_CELLS", chunk_cells)
        model = build(name, dropout=dropout).double()
        if dropout:  # pieces draw other numbers; only that backward repeats forward's draw can be seen
            model.train()
        torch.manual_seed(5)
        logits, attention = model(features, coords)
        logits[1].backward()
        found.append([logits, attention, *(p.grad for p in model.parameters())])
    for whole, pieces in zip(*found, strict=True):
        if whole is None or dropout:
            assert pieces is None or torch.isfinite(pieces).all()
        else:
            torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-12)


@aggregators
def test_dropout_is_off_in_evaluation_and_on_in_training(name):
    model = build(name, dropout=0.5)
    cells = bag(40)
    assert torch.equal(model(*cells).logits, model(*cells).logits)
    model.train()
    assert not torch.equal(model(*cells).logits, model(*cells).logits)


BIG = """
import resource, sys, torch
from wsi_vmamba.mil import AGGREGATORS
torch.set_num_threads(2)
n, dim, hidden = 200_000, 128, 256
model = AGGREGATORS.resolve(sys.argv[1])(dim, 2, hidden_dim=hidden)
features = torch.randn(n, dim)
coords = torch.stack([torch.arange(n) % 500, torch.arange(n) // 500], dim=1)
model(features[:1000], coords[:1000]).logits.sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model(features, coords).logits.sum().backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""


@aggregators
def test_200_000_cells_in_bounded_memory_with_gradients(name):
    done = subprocess.run([sys.executable, "-c", BIG, name], capture_output=True, text=True, check=True)
    grown_mib = float(done.stdout)
    hidden_mib = 200_000 * 256 * 4 / 2**20
    assert grown_mib < 4 * hidden_mib  # plain autograd takes 6.5 of them for gated attention


def test_unknown_name_is_refused_by_listing():
    with pytest.raises(UnknownNameError, match=r"unknown aggregator 'abmill' .*abmil, max, mean"):
        AGGREGATORS.resolve("abmill")


def test_abmil_follows_its_formula():
    model = build("abmil").double()
    features, coords = bag(30, dtype=torch.float64)
    weights = model.state_dict()
    hidden = torch.relu(features @ weights["embed.0.weight"].T + weights["embed.0.bias"])
    attended = torch.tanh(hidden @ weights["attend.weight"].T + weights["attend.bias"])
    gated = attended / (1 + torch.exp(-(hidden @ weights["gate.weight"].T + weights["gate.bias"])))
    raw = torch.exp(gated @ weights["score.weight"][0] + weights["score.bias"])
    expected = raw / raw.sum()
    logits, attention = model(features, coords)
    torch.testing.assert_close(attention, expected, rtol=1e-12, atol=1e-15)
    pooled = (expected[:, None] * hidden).sum(dim=0)
    torch.testing.assert_close(logits, pooled @ weights["classifier.weight"].T + weights["classifier.bias"])


def test_mean_and_max_follow_their_formulas():
    features, coords = bag(30, dtype=torch.float64)
    for name, pool in (("mean", lambda h: h.mean(dim=0)), ("max", lambda h: h.max(dim=0).values)):
        model = build(name).double()
        weights = model.state_dict()
        hidden = torch.relu(features @ weights["embed.0.weight"].T + weights["embed.0.bias"])
        expected = pool(hidden) @ weights["classifier.weight"].T + weights["classifier.bias"]
        torch.testing.assert_close(model(features, coords).logits, expected, rtol=1e-12, atol=1e-12)
