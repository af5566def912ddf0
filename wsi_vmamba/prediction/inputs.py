"""What is to be predicted: slides, or features of slides."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UsageError
from wsi_vmamba.slide.location import is_url


def is_feature_file(path: Path) -> bool:
    """Whether a folder is a feature file, and not a slide that is a zarr too."""
    return (path / "features" / "zarr.json").is_file() and (path / "coords_l0" / "zarr.json").is_file()


def feature_files(given: str) -> list[Path] | None:
    """The feature files that a path stands for; None where it stands for slides.

    Raises:
        UsageError: nothing is there, the folder is empty, or it holds feature files and zarr slides.
    """
    if is_url(given):
        return None
    path = Path(given)
    if not path.exists():
        raise UsageError(
            f"no such file or folder: {path}; give slides (a folder, one slide, a CSV) or feature files"
        )
    if not path.is_dir():
        return None
    if is_feature_file(path):
        return [path]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    found = [entry for entry in inside if entry.suffix == ".zarr" and is_feature_file(entry)]
    if not inside:
        raise UsageError(f"{path.absolute()} is empty; expected slides, or feature files <slide_id>.zarr")
    others = [entry for entry in inside if entry.suffix == ".zarr" and entry not in found]
    if found and others:
        raise UsageError(
            f"{path.absolute()} holds feature files ({found[0].name}) and other zarr folders ({others[0].name}); keep "
            "slides and features in folders of their own"
        )
    return found or None
