"""Which slides there are, and which file says what is on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.errors import AnnotationError, MissingDataError, UsageError
from wsi_vmamba.extraction.sources import SlideSource, find_sources
from wsi_vmamba.masks.find import MASK_SUFFIXES
from wsi_vmamba.records import SlideRecord

#: Endings of the files that say what is on a slide.
SUFFIXES = (*MASK_SUFFIXES, ".ome.tif", ".ome.tiff")
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class AnnotatedSlide:
    """A slide and what says what is on it.

    Attributes:
        record: its place, patient and split.
        annotation: outlines or a label mask; None where there is no file.
    """

    record: SlideRecord
    annotation: Path | None

    @property
    def slide_id(self) -> str:
        """Its name."""
        return self.record.slide_id

    @property
    def is_empty(self) -> bool:
        """Whether it is known that nothing is on it: its label is 0, the number or the word, and no file says more."""
        return self.annotation is None and self.record.label == 0 and not self.record.label_name

    @property
    def is_known(self) -> bool:
        """Whether anything is known of what is on it."""
        return self.annotation is not None or self.is_empty

    @property
    def source(self) -> SlideSource:
        """The slide as `extract` knows it."""
        record = self.record
        assert record.path is not None
        return SlideSource(
            slide_id=record.slide_id, path=record.path, mpp=record.mpp, listed_at=record.listed_at
        )

    def made_of(self) -> str:
        """What is known is made from: a hash of the file.

        Raises:
            AnnotationError: it cannot be read.
        """
        if self.annotation is None:
            return "empty"
        try:
            return hashlib.sha256(self.annotation.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise AnnotationError(f"{self.annotation} cannot be read ({error.strerror})") from error


def find_annotated(slides: str, *, annotations: Path | None) -> list[AnnotatedSlide]:
    """List the slides of a CSV, a folder or a file with what is known of each.

    Args:
        slides: a CSV with slide_id and path, a folder, or one slide.
        annotations: folder of outlines and label masks; None: the column annotation of the CSV.

    Raises:
        UsageError: there is no such folder, or no slides.
        DatasetError: the CSV is not as described.
        AnnotationError: a slide has several files.
        MissingDataError: the CSV has a slide without a path, or names a file that is not there.
    """
    if annotations is not None and not annotations.is_dir():
        raise UsageError(
            f"no folder {annotations.absolute()}; expected one with <slide_id>{SUFFIXES[0]}, .xml, .png or .tif in it"
        )
    return [
        AnnotatedSlide(record=record, annotation=_file_of(record, annotations)) for record in _records(slides)
    ]


def _records(slides: str) -> list[SlideRecord]:
    path = Path(slides)
    if path.suffix.lower() not in _TABLES:
        return [
            SlideRecord(slide_id=source.slide_id, path=source.path, mpp=source.mpp)
            for source in find_sources(slides)
        ]
    records = read_manifest(path, root=path.parent)
    lost = [record.slide_id for record in records if record.path is None]
    if lost:
        raise MissingDataError(
            f"{path}: {len(lost)} slides have no path ({', '.join(lost[:5])}); fill the column path"
        )
    return records


def _file_of(record: SlideRecord, folder: Path | None) -> Path | None:
    if folder is None:
        if record.annotation is not None and not record.annotation.is_file():
            raise MissingDataError(
                f"{record.listed_at}: no file {record.annotation}; correct the column annotation"
            )
        return record.annotation
    found = [
        path
        for suffix in SUFFIXES
        if (path := folder / f"{record.slide_id}{suffix}").is_file() and not _is_slide(path, record)
    ]
    if len(found) > 1:
        named = ", ".join(path.name for path in found)
        raise AnnotationError(f"{record.slide_id} has {len(found)} files ({named}) in {folder}; keep one")
    return found[0] if found else None


def _is_slide(path: Path, record: SlideRecord) -> bool:
    """Whether a file is the slide itself, which may lie beside its outlines."""
    return isinstance(record.path, Path) and record.path.exists() and path.samefile(record.path)


def require_known(slides: Sequence[AnnotatedSlide]) -> None:
    """Refuse slides of which nothing is known.

    Raises:
        MissingDataError: naming them.
    """
    unknown = [slide.slide_id for slide in slides if not slide.is_known]
    if unknown:
        raise MissingDataError(
            f"{len(unknown)} of {len(slides)} slides have no outlines and no label mask ({', '.join(unknown[:5])}); "
            "add them with --annotations FOLDER or in the CSV's column annotation, leave the slides out, or give those "
            "on which there is nothing the label 0 in a CSV"
        )
