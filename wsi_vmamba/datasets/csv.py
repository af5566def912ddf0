"""A data set described by a manifest: one CSV line a slide."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from wsi_vmamba.bags import SlideRecord, check_records
from wsi_vmamba.errors import DatasetError, MissingDataError, UsageError
from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.slide.location import place_of

#: Columns with a meaning; only ``slide_id`` must be there, and any other column becomes an attribute.
COLUMNS = ("slide_id", "path", "mpp", "label", "patient_id", "split", "annotation")


def load(
    *, manifest: Path | None = None, root: Path | None = None, positive: str | None = None
) -> list[SlideRecord]:
    """Return the slides of a manifest in its order.

    Args:
        manifest: the CSV file, see `read_manifest`.
        root: folder that relative paths start from; the manifest's own unless given.
        positive: name of the positive class where labels are names.

    Raises:
        UsageError: no manifest was given.
        DatasetError: the manifest is not as described, lists a slide twice, or splits a patient.
    """
    if manifest is None:
        raise UsageError(f"this data set needs a manifest: --manifest FILE, a CSV with {', '.join(COLUMNS)}")
    return read_manifest(manifest, root=root or manifest.parent, positive=positive)


def read_manifest(path: Path, *, root: Path | None, positive: str | None = None) -> list[SlideRecord]:
    """Read a manifest.

    Columns: ``slide_id`` (unique), ``path`` and ``annotation`` (relative to ``root``; ``path`` may be the URL
        of a zarr slide), ``mpp`` (um per
        level-0 pixel), ``label`` (0, 1, or names of which ``positive`` is 1), ``patient_id`` (the slide's own
        name unless given), ``split`` (train, validation, test). An empty cell means unknown; further columns
        become attributes.

    Args:
        path: the CSV file, UTF-8, comma-separated, with a header.
        root: folder that relative paths start from; None leaves slides and annotations without a path.
        positive: name of the positive class; every other name is then 0.

    Raises:
        MissingDataError: there is no such file.
        DatasetError: naming file and line, where the table is wrong.
    """
    rows = _read_rows(path)
    names = {row["label"] for _, row in rows if row.get("label")}
    if positive is not None and positive not in names:
        raise DatasetError(
            f"{path}: no slide is labelled {positive!r}; labels present: {', '.join(sorted(names))}"
        )
    records = [_record(row, root=root, positive=positive, where=f"{path}, line {line}") for line, row in rows]
    check_records(records)
    return records


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, cells by column) of every line that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            _check_header(header, path)
            rows = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if any(cells)]
    except FileNotFoundError as error:
        raise MissingDataError(f"no manifest at {path.absolute()}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a CSV in UTF-8: {error}") from error
    if not rows:
        raise DatasetError(f"{path} lists no slides; expected a header and one line a slide")
    for line, cells in rows:
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}, line {line}: expected {len(header)} cells as in the header, got {len(cells)}"
            )
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows]


def _check_header(header: list[str], path: Path) -> None:
    if "slide_id" not in header:
        raise DatasetError(
            f"{path}: expected a header with slide_id and any of {', '.join(COLUMNS[1:])}, separated "
            f"by commas; got {','.join(header)!r}"
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DatasetError(f"{path}: columns come twice in the header: {', '.join(twice)}")


def _record(row: Mapping[str, str], *, root: Path | None, positive: str | None, where: str) -> SlideRecord:
    path, annotation = row.get("path"), row.get("annotation")
    return SlideRecord(
        slide_id=row["slide_id"],
        path=place_of(path, root=root) if root and path else None,
        annotation=root / annotation if root and annotation else None,
        label=_label(row.get("label", ""), positive=positive, where=where),
        patient_id=row.get("patient_id", ""),
        split=row.get("split") or None,
        mpp=_mpp(row.get("mpp", ""), where=where),
        attributes={name: cell for name, cell in row.items() if name not in COLUMNS},
    )


def _label(cell: str, *, positive: str | None, where: str) -> int | None:
    if not cell:
        return None
    if positive is not None:
        return int(cell == positive)
    if cell not in ("0", "1"):
        raise DatasetError(f"{where}: label must be 0 or 1, or empty where unknown, got {cell!r}")
    return int(cell)


def _mpp(cell: str, *, where: str) -> float | None:
    if not cell:
        return None
    low, high = MPP_RANGE
    try:
        mpp = float(cell)
    except ValueError:
        raise DatasetError(f"{where}: mpp must be a number, got {cell!r}") from None
    if not low <= mpp <= high:
        raise DatasetError(f"{where}: mpp must be micrometres per level-0 pixel in {low}–{high}, got {cell}")
    return mpp
