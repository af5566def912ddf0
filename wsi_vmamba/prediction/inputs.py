"""What is to be predicted: slides, features of slides, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import UsageError
from wsi_vmamba.extraction.sources import SlideSource, find_sources
from wsi_vmamba.folder_kinds import feature_files, is_feature_file
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.location import Location, is_url


@dataclass(frozen=True, kw_only=True)
class FeatureInput:
    """A feature file to predict.

    Attributes:
        slide_id: name of its slide: that of the file, or the one that a CSV gives it.
        path: of the file.
    """

    slide_id: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run predicts.

    Attributes:
        files: slides whose features are there.
        sources: slides to be extracted first.
    """

    files: tuple[FeatureInput, ...] = ()
    sources: tuple[SlideSource, ...] = ()

    @property
    def n_slides(self) -> int:
        """How many slides there are."""
        return len(self.files) + len(self.sources)

    def in_words(self) -> str:
        """How many there are of each."""
        slides = f"{len(self.sources)} slide(s)" if self.sources else ""
        files = f"{len(self.files)} feature file(s)" if self.files else ""
        return " and ".join(filter(None, [slides, files]))


def find_inputs(given: str, *, ids_from_path: bool = False) -> Inputs:
    """List what a path stands for: a folder, a slide, a feature file, a CSV of slides or feature files, or a URL.

    Raises:
        UsageError: nothing is there, the folder is empty, or two slides share a name.
        DatasetError: the CSV is not as described.
    """
    path = Path(given)
    if not is_url(given):
        if not path.exists():
            raise UsageError(
                f"no such file or folder: {path}; give slides (a folder, one slide, a CSV) or feature files"
            )
        if is_feature_file(path):
            return Inputs(files=(_named(path),))
        if path.is_dir():
            return _in_folder(path, ids_from_path=ids_from_path)
    sources = find_sources(given, ids_from_path=ids_from_path)
    return Inputs(
        files=tuple(
            FeatureInput(slide_id=source.slide_id, path=Path(source.path))
            for source in sources
            if _is_features(source.path)
        ),
        sources=tuple(source for source in sources if not _is_features(source.path)),
    )


def _in_folder(folder: Path, *, ids_from_path: bool) -> Inputs:
    """Feature files of a folder, and slides at or below it."""
    if not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UsageError(f"{folder.absolute()} is empty; expected slides, or feature files <slide_id>.zarr")
    files = tuple(_named(path) for path in feature_files(folder))
    sources: Sequence[SlideSource] = ()
    if not files or any(not is_feature_file(path) for path in find_slides(folder, problems=[])):
        found = find_sources(str(folder), ids_from_path=ids_from_path)
        sources = [source for source in found if not _is_features(source.path)]
    _refuse_same_names(files, sources)
    return Inputs(files=files, sources=tuple(sources))


def _named(path: Path) -> FeatureInput:
    return FeatureInput(slide_id=path.stem, path=path)


def _is_features(place: Location) -> bool:
    return not is_url(place) and is_feature_file(Path(place))


def _refuse_same_names(files: Sequence[FeatureInput], sources: Sequence[SlideSource]) -> None:
    slides = {source.slide_id: source.path for source in sources}
    for file in files:
        if file.slide_id in slides:
            raise UsageError(
                f"{file.slide_id} is there twice, as a slide and as features:\n  {slides[file.slide_id]}\n  "
                f"{file.path}\nGive one of them, or a CSV with a slide_id for each"
            )
