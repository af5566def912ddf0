"""The note beside an AUC says what is the case."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.metrics.auc import auc
from wsi_vmamba.metrics.panel import slide_panel

LABELS = [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("scores", "value", "words"),
    [
        ([0.5] * 6, 0.5, "all scores are equal, they say nothing"),
        ([0] * 6, 0.5, "all scores are equal, they say nothing"),
        ([3, 4, 5, 0, 1, 2], 0.0, "every pair is in the wrong order"),
        ([1, 1, 1, 0, 0, 0], 0.0, "every pair is in the wrong order"),
        ([0, 1, 2, 3, 4, 5], 1.0, "the scores separate the classes without one wrong pair"),
        ([0, 0, 0, 1, 1, 1], 1.0, "the scores separate the classes without one wrong pair"),
        ([0, 1, 3, 2, 4, 5], 8 / 9, "one of 9 pairs is in the wrong order, all others are right"),
        ([0, 1, 3, 3, 4, 5], 8.5 / 9, "one of 9 pairs is a tie, all others are right"),
        ([2, 4, 5, 0, 1, 3], 1 / 9, "8 of 9 pairs are in the wrong order and 1 in the right one"),
    ],
)
def test_the_note_is_that_of_the_case(scores, value, words):
    found = auc(LABELS, scores, resamples=100)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.note.startswith(words)
    assert found.to_dict()["note"] == found.note
    panel = slide_panel(LABELS, scores, threshold=None, groups=None, resamples=100, seed=0)
    assert panel.notes[0] == found.note
    assert ("no width" in found.note) == (value in (0.0, 0.5, 1.0))


def test_an_ordinary_ranking_needs_no_note():
    assert auc(LABELS, [0, 3, 2, 1, 4, 5], resamples=100).note is None


def test_the_pairs_are_those_counted_one_by_one():
    generator = np.random.default_rng(3)
    for _ in range(50):
        labels = np.array([0, 1, *generator.integers(0, 2, 10)])
        scores = generator.integers(0, 3, len(labels)).astype(float)
        pairs = [(p, n) for p in scores[labels == 1] for n in scores[labels == 0]]
        right, wrong = sum(p > n for p, n in pairs), sum(p < n for p, n in pairs)
        if min(labels.sum(), (1 - labels).sum()) < 2:
            continue
        note = auc(labels, scores, resamples=100).note or ""
        assert note.startswith("all scores are equal") == (right == wrong == 0)
        assert note.startswith("the scores separate") == (right == len(pairs))
        assert note.startswith("every pair is in the wrong order") == (wrong == len(pairs))
        assert (f"{wrong} of {len(pairs)} pairs are in the wrong order" in note) == (
            right < wrong < len(pairs) and right + 1 != len(pairs)
        )
