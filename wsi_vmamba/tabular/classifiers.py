"""Two classifiers of scikit-learn that need no tuning on a few hundred slides."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def random_forest(*, seed: int) -> Any:
    """500 trees, everything else as scikit-learn has it."""
    return RandomForestClassifier(n_estimators=500, random_state=seed)


def logistic_regression(*, seed: int) -> Any:
    """Features standardised on the training slides, then L2-regularised logistic regression with C = 1."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000, random_state=seed))
