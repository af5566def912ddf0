"""The package croma, where it is installed, and our robustness index agree."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.probing.folds import Task
from wsi_vmamba.probing.leakage import _croma_version, measure_leakage

pytestmark = pytest.mark.skipif(not _croma_version(), reason="croma is not installed: pip install croma")


@pytest.mark.parametrize("with_sites", [False, True])
def test_the_robustness_index_is_that_of_croma(with_sites: bool) -> None:
    rng = np.random.default_rng(0)
    n = 200
    labels, groups = np.arange(n) % 3, np.array([f"g{one}" for one in rng.integers(0, 12, n)])
    sites = np.array([f"s{int(group[1:]) % 3}" for group in groups])
    features = (
        rng.normal(size=(n, 16))
        + rng.normal(size=(3, 16))[labels]
        + rng.normal(size=(12, 16))[[int(g[1:]) for g in groups]]
    )
    task = Task(
        classes=("a", "b", "c"),
        labels=labels,
        groups=groups,
        sites=sites if with_sites else None,
        folds=(),
        scheme="",
    )
    found = measure_leakage(features, task, k=20)
    own = found.site_robustness_index if with_sites else found.robustness_index
    assert found.croma["ri"] == pytest.approx(own, abs=1e-9)
    assert found.croma["origin"] == ("site" if with_sites else "group")
    assert -1 < float(found.croma["croma"]) < 1
