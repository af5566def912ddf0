"""Which slides a run is about: a folder, one slide, or a CSV."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wsi_vmamba.config import parse_shard
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.errors import (
    DatasetError,
    IncompatibleStoreError,
    SlideNameError,
    UnreadableSlideError,
    UsageError,
)
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.location import Location, absolute, is_url
from wsi_vmamba.slide.same_name import ALIKE, near_names
from wsi_vmamba.text import name_problem, printable

#: Longest name that leaves room for the ending and the temporary names, in bytes; file systems take 255.
_LONGEST_ID_BYTES = 150
#: Endings of manifests, and of what people give in their place.
_TABLES, _WORKBOOKS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")


@dataclass(frozen=True, kw_only=True)
class SlideSource:
    """One slide to read.

    Attributes:
        slide_id: its unique name, which the feature file gets.
        path: its file or URL.
        mpp: the manifest's um per level-0 pixel where there is one.
        problem: why it cannot be read, where that is known before anybody tries; empty otherwise.
        listed_at: file and line of the manifest that lists it; empty where none does.
    """

    slide_id: str
    path: Location
    mpp: float | None = None
    problem: str = ""
    listed_at: str = ""


def find_sources(slides: str, *, ids_from_path: bool = False) -> list[SlideSource]:
    """List the slides that a folder (recursively), a CSV (slide_id, path, mpp), a single file or a URL stands for.

    A folder that cannot be listed stands in the list with its problem; the others go on.

    Args:
        slides: the folder, CSV, file or URL.
        ids_from_path: name a slide by its folders below ``slides`` too, ``a__slide`` for ``a/slide.svs``. Never
            decided by what else is there: a slide must keep its name when another of the same name comes.

    Raises:
        UsageError: nothing is there, no slide was found, or two slides share a name.
        DatasetError: the CSV is not as described.
    """
    if is_url(slides):
        return _from_url(slides, ids_from_path=ids_from_path)
    path = Path(slides)
    try:
        there, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise UsageError(f"cannot look at {slides} ({error.strerror})") from error
    if not there:
        raise UsageError(f"no such file or folder: {slides}; give a folder of slides, one slide, or a CSV")
    if is_file and path.suffix.lower() in _TABLES:
        return [
            _named(_from_record(record)) for record in read_manifest(path, root=path.parent, labels=False)
        ]
    if is_file and path.suffix.lower() in _WORKBOOKS:
        raise UsageError(
            f"{slides} is a workbook of a spreadsheet; save its sheet as CSV (in Excel: CSV UTF-8)"
        )
    problems: list[UnreadableSlideError] = []
    found = find_slides(path, problems=problems)
    sources = [
        SlideSource(slide_id=_name(file, below=slides if ids_from_path else None), path=file)
        for file in found
    ]
    if not sources and not problems:
        raise UsageError(f"no slides found in {path.absolute()} (searched recursively)")
    _refuse_same_names(sources, below=slides)
    unlisted = [
        SlideSource(slide_id=f"{error.slide}/", path=Path(error.slide), problem=error.message)
        for error in problems
    ]
    return [_named(source) for source in sources + unlisted]


def _named(source: SlideSource) -> SlideSource:
    """The source under a slide_id that can be shown and stored; `refuse_unusable` says what is wrong with it."""
    return replace(source, slide_id=printable(source.slide_id)) if name_problem(source.slide_id) else source


def refuse_unusable(source: SlideSource) -> None:
    """Refuse a slide that nobody need try to read.

    Raises:
        UnreadableSlideError: it has a problem.
        SlideNameError: its name or path cannot be written down, or not in this locale.
    """
    if source.problem:
        raise UnreadableSlideError(source.path, source.problem)
    texts = [source.slide_id] + ([] if is_url(source.path) else [str(absolute(source.path))])
    for text in texts:
        if problem := name_problem(text):
            raise SlideNameError(source.path, problem)


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


def _name(place: Location, *, below: str | None) -> str:
    """The slide_id of a file: its name, after the folders that lead to it where it lies ``below`` something."""
    name: str = slide_id_of(place)
    if below is None:
        return name
    name = "__".join([*_below(place, below).parent.parts, name])
    if len(printable(name).encode()) > _LONGEST_ID_BYTES:
        raise UsageError(
            f"{name[:60]}… would name a feature file with more than {_LONGEST_ID_BYTES} bytes; give a CSV with a "
            "slide_id for each slide"
        )
    return name


def _below(place: Location, folder: str) -> PurePosixPath:
    """The part of a place that begins after ``folder``; its name where the two are the same."""
    inside = PurePosixPath(str(place).removeprefix(str(folder) if is_url(folder) else str(Path(folder))))
    return PurePosixPath(*(part for part in inside.parts if part != "/")) if inside.name else PurePosixPath()


def refuse_namesake(features: Path, made_from: str, slide: Location) -> None:
    """Refuse to take the features of one slide for those of another with the same name.

    Slides may be moved and copied, so the path alone says nothing: they are two if the file that the features were
    made from is still there and has another length.

    Raises:
        IncompatibleStoreError: they are.
    """
    if is_url(made_from) or is_url(slide):
        return
    old, new = Path(made_from), Path(slide)
    try:
        two = old.is_file() and new.is_file() and old.stat().st_size != new.stat().st_size
        if not two or old.samefile(new):
            return
    except OSError:  # what cannot be looked at cannot be compared
        return
    raise IncompatibleStoreError(
        f"{features} holds the features of {old}, and {new} is another slide of that name; choose another --out, "
        "name slides by their folders with --set ids_from_path=true, or give a CSV with a slide_id for each"
    )


def _from_url(url: str, *, ids_from_path: bool) -> list[SlideSource]:
    # Imported here: fsspec and its clients are slow to load and rarely needed.
    from wsi_vmamba.slide.remote import find_remote_slides

    if url.lower().endswith(".csv"):
        raise UsageError(f"{url}: a manifest must be a local file; copy it here, its paths may be URLs")
    url = url.rstrip("/")
    sources = [
        SlideSource(slide_id=_name(found, below=url if ids_from_path else None), path=found)
        for found in find_remote_slides(url)
    ]
    if not sources:
        raise UsageError(f"no slides found at {url} (searched recursively)")
    _refuse_same_names(sources, below=url)
    return sources


def refuse_other_spellings(sources: Sequence[SlideSource], out: Path) -> None:
    """Refuse slides of a manifest whose features are in ``out`` already under almost their name.

    Raises:
        UsageError: naming both.
    """
    there = {path.stem for path in out.glob("*.zarr")}
    new = (source.slide_id for source in sources if source.listed_at and source.slide_id not in there)
    if near := near_names(new, there, forms=ALIKE):
        raise UsageError(
            f"{out} holds features of slides by other names: {near}; name them in the CSV as there, or "
            "choose another --out"
        )


def require_there(source: SlideSource) -> None:
    """Refuse a slide of a manifest whose file is not there, by the path and the line that names it.

    Raises:
        UnreadableSlideError: it is not.
    """
    if not source.listed_at or is_url(source.path):
        return
    try:
        Path(source.path).stat()
    except FileNotFoundError as error:
        hint = "; its folders must be divided by /, not by \\" if "\\" in str(source.path) else ""
        raise UnreadableSlideError(
            source.path, f"no such file: {absolute(source.path)} ({source.listed_at}){hint}"
        ) from error
    except OSError:  # a folder without permission, or a file in place of one: opening the slide says it
        return


def _from_record(record: SlideRecord) -> SlideSource:
    slide_id, path = record.slide_id, record.path
    if path is None:
        raise DatasetError(
            f"{record.listed_at}: {slide_id} has no path; extraction needs one for every slide"
        )
    if (
        slide_id.startswith(".")
        or not slide_id.isprintable()
        or any(letter in slide_id for letter in "/\\")
        or len(slide_id.encode()) > _LONGEST_ID_BYTES
    ):
        raise DatasetError(
            f"{record.listed_at}: {slide_id[:200]!r} cannot name a feature file; expected a slide_id without "
            f"slashes, not beginning with a dot, of at most {_LONGEST_ID_BYTES} bytes"
        )
    return SlideSource(slide_id=slide_id, path=path, mpp=record.mpp, listed_at=record.listed_at)


def _refuse_same_names(sources: list[SlideSource], *, below: str) -> None:
    by_name: dict[str, list[Location]] = defaultdict(list)
    for source in sources:
        by_name[source.slide_id].append(source.path)
    shared = {name: paths for name, paths in by_name.items() if len(paths) > 1}
    for name, paths in shared.items():
        first, second = paths[:2]
        lines = [f"  {_name(path, below=below)},{absolute(path)}" for path in (first, second)]
        others = f" ({len(shared)} names are shared)" if len(shared) > 1 else ""
        raise UsageError(
            f"{len(paths)} slides are named {name!r}{others}, and their feature files would collide:\n"
            f"  {first}\n  {second}\n"
            "Name all slides by their folders too with --set ids_from_path=true, or choose the names in a CSV given in "
            "place of the folder:\n  slide_id,path\n" + "\n".join(lines)
        )
