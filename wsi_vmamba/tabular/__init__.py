"""Classifiers of slides that are one row of numbers each. Importing this room is cheap."""

from __future__ import annotations

from wsi_vmamba.registry import Table

#: Each resolves to ``f(*, seed: int) -> estimator`` of scikit-learn with `fit` and `predict_proba`.
CLASSIFIERS = Table(
    "classifier",
    {
        "random_forest": "wsi_vmamba.tabular.classifiers:random_forest",
        "logistic_regression": "wsi_vmamba.tabular.classifiers:logistic_regression",
    },
)

__all__ = ["CLASSIFIERS"]
