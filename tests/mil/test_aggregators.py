"""The contract every aggregator keeps; the table decides who is tested."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wsi_vmamba.errors import DatasetError, UnknownNameError, UsageError
from wsi_vmamba.mil import AGGREGATORS, base

DIM = 12
#: Aggregators that look at where the patches are.
POSITIONAL = {"ss2d", "transmil"}
aggregators = pytest.mark.parametrize("name", list(AGGREGATORS))


def build(name: str, **changes):
    torch.manual_seed(0)
    model = AGGREGATORS.resolve(name)(DIM, 2, **{"hidden_dim": 16, "dropout": 0.0, **changes}).eval()
    for parameter in model.parameters():
        if not parameter.any():  # what starts at zero would hide what lies behind it
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def loss_of(output, label: int = 1):
    """A number that every output enters."""
    loss = torch.nn.functional.cross_entropy(output.logits, torch.tensor(label))
    return loss if output.auxiliary is None else loss + output.auxiliary(label)


def bag(n_patches: int, *, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n_patches, DIM, generator=generator, dtype=dtype)
    places = torch.randperm(4 * n_patches, generator=generator)[:n_patches]
    return features, torch.stack([places % 40, places // 40], dim=1)


@aggregators
@pytest.mark.parametrize("n_patches", [1, 2, 700])
def test_logits_and_attention(name, n_patches):
    logits, attention, auxiliary, of_classes = build(name)(*bag(n_patches))
    assert logits.shape == (2,)
    assert torch.isfinite(logits).all()
    if attention is not None:
        assert attention.shape == (n_patches,)
        assert (attention >= 0).all()
        assert attention.sum().item() == pytest.approx(1.0, abs=1e-5)
    if of_classes is not None:
        assert torch.allclose(of_classes.sum(dim=1), torch.ones(2), atol=1e-5)
        assert torch.allclose(of_classes[-1], attention)
    if auxiliary is not None:
        assert all(torch.isfinite(auxiliary(label)) and auxiliary(label) >= 0 for label in (0, 1))


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
def test_order_of_the_patches_does_not_matter(name):
    model = build(name).double()
    features, coords = bag(500, dtype=torch.float64)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    one, shuffled = model(features, coords), model(features[order], coords[order])
    torch.testing.assert_close(shuffled.logits, one.logits, rtol=1e-11, atol=1e-12)
    if one.attention is not None:
        torch.testing.assert_close(shuffled.attention, one.attention[order], rtol=1e-11, atol=1e-15)
    for label in (0, 1):
        torch.testing.assert_close(loss_of(shuffled, label), loss_of(one, label), rtol=1e-11, atol=1e-12)


@aggregators
def test_only_those_that_use_places_depend_on_them(name):
    model = build(name).double()
    features, coords = bag(200, dtype=torch.float64)
    other = coords[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    same = torch.allclose(model(features, coords).logits, model(features, other).logits, rtol=1e-9)
    assert same == (name not in POSITIONAL)
    # Where the slide lies on the glass says nothing.
    moved = model(features, coords + torch.tensor([17, 400])).logits
    torch.testing.assert_close(moved, model(features, coords).logits, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", sorted(POSITIONAL))
def test_two_patches_at_one_place_are_refused(name):
    features, coords = bag(5)
    coords[3] = coords[1]
    col, row = coords[1].tolist()
    with pytest.raises(DatasetError, match=f"two patches are at column {col}, row {row}"):
        build(name)(features, coords)


@aggregators
def test_patches_matter(name):
    model = build(name)
    assert not torch.equal(model(*bag(50, seed=1)).logits, model(*bag(50, seed=2)).logits)


@pytest.mark.parametrize(
    ("name", "chunk_patches"), [*((name, 4) for name in AGGREGATORS), ("abmil", base.CHUNK_PATCHES)]
)
def test_gradients_equal_finite_differences(name, chunk_patches, monkeypatch):
    monkeypatch.setattr(base, "CHUNK_PATCHES", chunk_patches)
    model = build(name, hidden_dim=8).double()
    features, coords = bag(9, dtype=torch.float64)

    def logits_of(patches, *parameters):
        named = dict(zip(dict(model.named_parameters()), parameters, strict=True))
        output = torch.func.functional_call(model, named, (patches, coords))
        # The auxiliary loss is taken while the parameters are those under test.
        return output.logits, torch.func.functional_call(_Loss(model), _prefixed(named), (patches, coords))

    inputs = [features.requires_grad_(), *(p.detach().clone().requires_grad_() for p in model.parameters())]
    assert torch.autograd.gradcheck(logits_of, inputs, fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, coords):
        return loss_of(self.model(features, coords))


def _prefixed(named):
    return {f"model.{name}": tensor for name, tensor in named.items()}


@aggregators
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_pieces_give_the_same_as_the_whole(name, dropout, monkeypatch):
    features, coords = bag(100, dtype=torch.float64)
    found = []
    for chunk_patches in (1000, 7):
        monkeypatch.setattr(base, "CHUNK_PATCHES", chunk_patches)
        model = build(name, dropout=dropout).double()
        if dropout:  # pieces draw other numbers; only that backward repeats forward's draw can be seen
            model.train()
        torch.manual_seed(5)
        output = model(features, coords)
        loss_of(output).backward()
        found.append([output.logits, output.attention, *(p.grad for p in model.parameters())])
    for whole, pieces in zip(*found, strict=True):
        if whole is None or dropout:
            assert pieces is None or torch.isfinite(pieces).all()
        else:
            torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-12)


@aggregators
def test_dropout_is_off_in_evaluation_and_on_in_training(name):
    model = build(name, dropout=0.5)
    patches = bag(40)
    assert torch.equal(model(*patches).logits, model(*patches).logits)
    model.train()
    assert not torch.equal(model(*patches).logits, model(*patches).logits)


BIG = """
import resource, sys, torch
from wsi_vmamba.mil import AGGREGATORS
torch.set_num_threads(1)
n, dim, hidden = 200_000, 64, 64
model = AGGREGATORS.resolve(sys.argv[1])(dim, 2, hidden_dim=hidden)
features = torch.randn(n, dim)
# Two pieces of tissue at the far ends of a large slide: a dense map of it would take 4 GiB a channel.
coords = torch.stack([torch.arange(n) % 300, torch.arange(n) // 300], dim=1)
coords[n // 2 :] += 30_000
def step(features, coords):
    output = model(features, coords)
    loss = output.logits.sum()
    (loss if output.auxiliary is None else loss + output.auxiliary(1)).backward()
step(features[:1000], coords[:1000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for mode in (True, False):  # ss2d leaves its context out of half of the steps of training
    model.train(mode)
    step(features, coords)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""
#: Most memory a training step may take, in embeddings of the slide (N x hidden_dim x 4 bytes).
LARGEST_GROWTH = {"ss2d": 18, "transmil": 30}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(AGGREGATORS))
def test_200_000_patches_in_bounded_memory_with_gradients(name):
    done = subprocess.run([sys.executable, "-c", BIG, name], capture_output=True, text=True, check=True)
    grown_mib = float(done.stdout)
    hidden_mib = 200_000 * 64 * 4 / 2**20
    assert grown_mib < LARGEST_GROWTH.get(name, 6) * hidden_mib


def test_unknown_name_is_refused_by_listing():
    with pytest.raises(UnknownNameError, match=r"unknown aggregator 'abmill' .*abmil, clam_mb, .*mean"):
        AGGREGATORS.resolve("abmill")


def embedded(model, features):
    weights = model.state_dict()
    return torch.relu(features @ weights["embed.0.weight"].T + weights["embed.0.bias"])


def gated_scores(model, hidden):
    weights = model.state_dict()
    attended = torch.tanh(hidden @ weights["attention.attend.weight"].T + weights["attention.attend.bias"])
    gate = 1 / (
        1 + torch.exp(-(hidden @ weights["attention.gate.weight"].T + weights["attention.gate.bias"]))
    )
    return (attended * gate) @ weights["attention.score.weight"].T + weights["attention.score.bias"]


def instance_loss(model, hidden, scores, label):
    """CLAM's by hand: binary cross-entropy of the 8 patches attended to most (1) and least (0)."""
    weights = model.state_dict()
    order = scores.argsort().tolist()
    total = 0.0
    for patch, target in [(patch, 1) for patch in order[-8:]] + [(patch, 0) for patch in order[:8]]:
        logits = weights[f"instances.classifiers.{label}.weight"] @ hidden[patch]
        logits += weights[f"instances.classifiers.{label}.bias"]
        total -= torch.log_softmax(logits, dim=0)[target].item()
    return 0.3 / 0.7 * total / 16


@pytest.mark.parametrize("name", ["abmil", "clam_sb"])
def test_single_branch_attention_follows_its_formula(name):
    model = build(name).double()
    features, coords = bag(30, dtype=torch.float64)
    hidden = embedded(model, features)
    raw = torch.exp(gated_scores(model, hidden)[:, 0])
    output = model(features, coords)
    torch.testing.assert_close(output.attention, raw / raw.sum(), rtol=1e-12, atol=1e-15)
    pooled = (raw[:, None] * hidden).sum(dim=0) / raw.sum()
    weights = model.state_dict()
    torch.testing.assert_close(
        output.logits, pooled @ weights["classifier.weight"].T + weights["classifier.bias"]
    )
    assert (output.auxiliary is None) == (name == "abmil")


def test_clam_losses_follow_their_formula():
    features, coords = bag(30, dtype=torch.float64)
    for name in ("clam_sb", "clam_mb"):
        model = build(name).double()
        hidden = embedded(model, features)
        scores = gated_scores(model, hidden)
        output = model(features, coords)
        for label in (0, 1):
            branch = label if name == "clam_mb" else 0
            expected = instance_loss(model, hidden, scores[:, branch], label)
            assert output.auxiliary(label).item() == pytest.approx(expected, rel=1e-12)


def test_clam_with_branches_scores_each_class_by_its_own_mean():
    model = build("clam_mb").double()
    features, coords = bag(30, dtype=torch.float64)
    hidden = embedded(model, features)
    attention = torch.softmax(gated_scores(model, hidden), dim=0)
    weights = model.state_dict()
    expected = [
        weights["classifier.weight"][c] @ (attention[:, c] @ hidden) + weights["classifier.bias"][c]
        for c in (0, 1)
    ]
    output = model(features, coords)
    torch.testing.assert_close(output.logits, torch.stack(expected))
    torch.testing.assert_close(output.attention, attention[:, 1])


def test_one_patch_has_no_instance_loss():
    assert build("clam_sb")(*bag(1)).auxiliary(1).item() == 0.0


def test_dsmil_follows_its_formula():
    model = build("dsmil").double()
    features, coords = bag(30, dtype=torch.float64)
    hidden = embedded(model, features)
    weights = model.state_dict()
    logits = hidden @ weights["patch_classifier.weight"].T + weights["patch_classifier.bias"]
    queries = torch.tanh(hidden @ weights["query.0.weight"].T + weights["query.0.bias"])
    likeness = torch.softmax(queries @ queries[logits.argmax(dim=0)].T / 4, dim=0)  # 4 = sqrt(hidden_dim)
    bag_logits = weights["classifier.weight"] @ (likeness.T @ hidden).flatten() + weights["classifier.bias"]
    output = model(features, coords)
    highest = logits.amax(dim=0)
    torch.testing.assert_close(output.logits, 0.5 * (highest + bag_logits))
    torch.testing.assert_close(output.attention, likeness[:, 1])
    assert output.auxiliary(0).item() == pytest.approx(-torch.log_softmax(highest, dim=0)[0].item())


def test_ours_starts_as_abmil():
    torch.manual_seed(0)
    ours = AGGREGATORS.resolve("ss2d")(DIM, 2, hidden_dim=16).double().eval()
    abmil = AGGREGATORS.resolve("abmil")(DIM, 2, hidden_dim=16).double().eval()
    abmil.load_state_dict(ours.state_dict(), strict=False)
    patches = bag(50, dtype=torch.float64)
    torch.testing.assert_close(ours(*patches).logits, abmil(*patches).logits, rtol=1e-12, atol=1e-12)


def test_ours_trains_half_of_the_steps_without_context_and_predicts_with_it():
    torch.manual_seed(0)
    ours = AGGREGATORS.resolve("ss2d")(DIM, 2, hidden_dim=16, dropout=0.0)
    torch.nn.init.ones_(ours.gain)
    patches = bag(50)
    with torch.no_grad():
        trained = [ours(*patches).logits for _ in range(400)]
        ours.eval()
        predicted = [ours(*patches).logits for _ in range(20)]
        ours.gain.zero_()
        plain = ours(*patches).logits
    assert not torch.allclose(predicted[0], plain, atol=1e-3)
    assert all(torch.equal(logits, predicted[0]) for logits in predicted)
    without = sum(torch.allclose(logits, plain, atol=1e-6) for logits in trained)
    assert 160 <= without <= 240  # four standard deviations around 200
    assert without + sum(torch.allclose(logits, predicted[0], atol=1e-6) for logits in trained) == 400


def test_attention_heads_must_share_the_width():
    with pytest.raises(UsageError, match="hidden_dim must be a multiple, got 12"):
        AGGREGATORS.resolve("transmil")(DIM, 2, hidden_dim=12)


def test_mean_and_max_follow_their_formulas():
    features, coords = bag(30, dtype=torch.float64)
    for name, pool in (("mean", lambda h: h.mean(dim=0)), ("max", lambda h: h.max(dim=0).values)):
        model = build(name).double()
        weights = model.state_dict()
        hidden = torch.relu(features @ weights["embed.0.weight"].T + weights["embed.0.bias"])
        expected = pool(hidden) @ weights["classifier.weight"].T + weights["classifier.bias"]
        torch.testing.assert_close(model(features, coords).logits, expected, rtol=1e-12, atol=1e-12)
