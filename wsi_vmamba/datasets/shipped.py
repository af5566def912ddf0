"""The manifests that come with the package."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import MissingDataError


def manifest_of(dataset: str) -> Path:
    """Path of the manifest of a data set that comes with the package.

    Raises:
        MissingDataError: the installation is incomplete.
    """
    package = Path(__file__).parents[1]
    # Inside an installed package, and beside it in a checkout.
    candidates = [folder / "data" / "manifests" / f"{dataset}.csv" for folder in (package, package.parent)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(map(str, candidates))
    raise MissingDataError(
        f"the manifest of {dataset.upper()} is not in this installation (looked at {looked}); reinstall"
    )
