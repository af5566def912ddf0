"""Which slides a run is about: a folder, one slide, or a CSV."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.config import parse_shard
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.errors import DatasetError, UnreadableSlideError, UsageError
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.location import Location, is_url

#: Longest name that leaves room for the ending and the temporary names, in bytes; file systems take 255.
_LONGEST_ID_BYTES = 150


@dataclass(frozen=True, kw_only=True)
class SlideSource:
    """One slide to read.

    Attributes:
        slide_id: its unique name, which the feature file gets.
        path: its file or URL.
        mpp: the manifest's um per level-0 pixel where there is one.
        problem: why it cannot be read, where that is known before anybody tries; empty otherwise.
    """

    slide_id: str
    path: Location
    mpp: float | None = None
    problem: str = ""


def find_sources(slides: str) -> list[SlideSource]:
    """List the slides that a folder (recursively), a CSV (slide_id, path, mpp), a single file or a URL stands for.

    A folder that cannot be listed stands in the list with its problem; the others go on.

    Raises:
        UsageError: nothing is there, no slide was found, or two slides share a name.
        DatasetError: the CSV is not as described.
    """
    if is_url(slides):
        return _from_url(slides)
    path = Path(slides)
    try:
        there, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise UsageError(f"cannot look at {slides} ({error.strerror})") from error
    if not there:
        raise UsageError(f"no such file or folder: {slides}; give a folder of slides, one slide, or a CSV")
    if is_file and path.suffix.lower() == ".csv":
        return [
            _from_record(path, record.slide_id, record.path, record.mpp)
            for record in read_manifest(path, root=path.parent)
        ]
    problems: list[UnreadableSlideError] = []
    sources = [
        SlideSource(slide_id=slide_id_of(file), path=file) for file in find_slides(path, problems=problems)
    ]
    if not sources and not problems:
        raise UsageError(f"no slides found in {path.absolute()} (searched recursively)")
    _refuse_same_names(sources)
    return sources + [
        SlideSource(slide_id=f"{error.slide}/", path=Path(error.slide), problem=error.message)
        for error in problems
    ]


def take_shard(sources: list[SlideSource], shard: str | None) -> list[SlideSource]:
    """Take the slides of shard "i/n", i from 1 to n; all of them without one.

    Every n-th slide of the list sorted by name: the n shards of one list have no slide in common and leave none out,
    and slides that lie side by side, which are often alike in size, go to different shards.

    Raises:
        UsageError: the shard is not of that form.
    """
    if shard is None:
        return sources
    index, count = parse_shard(shard)
    return sorted(sources, key=lambda source: source.slide_id)[index - 1 :: count]


def _from_url(url: str) -> list[SlideSource]:
    # Imported here: fsspec and its clients are slow to load and rarely needed.
    from wsi_vmamba.slide.remote import find_remote_slides

    if url.lower().endswith(".csv"):
        raise UsageError(f"{url}: a manifest must be a local file; copy it here, its paths may be URLs")
    sources = [
        SlideSource(slide_id=slide_id_of(found), path=found) for found in find_remote_slides(url.rstrip("/"))
    ]
    if not sources:
        raise UsageError(f"no slides found at {url} (searched recursively)")
    _refuse_same_names(sources)
    return sources


def _from_record(manifest: Path, slide_id: str, path: Location | None, mpp: float | None) -> SlideSource:
    if path is None:
        raise DatasetError(f"{manifest}: {slide_id} has no path; extraction needs one for every slide")
    if (
        slide_id.startswith(".")
        or not slide_id.isprintable()
        or any(letter in slide_id for letter in "/\\")
        or len(slide_id.encode()) > _LONGEST_ID_BYTES
    ):
        raise DatasetError(
            f"{manifest}: {slide_id[:200]!r} cannot name a feature file; expected a slide_id without slashes, not "
            f"beginning with a dot, of at most {_LONGEST_ID_BYTES} bytes"
        )
    return SlideSource(slide_id=slide_id, path=path, mpp=mpp)


def _refuse_same_names(sources: list[SlideSource]) -> None:
    by_name: dict[str, list[Location]] = defaultdict(list)
    for source in sources:
        by_name[source.slide_id].append(source.path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            raise UsageError(
                f"{len(paths)} slides are named {name!r} ({', '.join(map(str, paths))}); their feature files would "
                "collide. Give a CSV with a slide_id of its own for each"
            )
