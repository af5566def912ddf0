"""A data set described by a manifest: one CSV line a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.datasets.labels import Label, read_labels
from wsi_vmamba.errors import DatasetError, MissingDataError, UsageError
from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.home import expand_home
from wsi_vmamba.records import SlideRecord, check_records
from wsi_vmamba.slide.location import place_of
from wsi_vmamba.slide.same_name import alike, shortened
from wsi_vmamba.table import Row, Table, read_table

#: Columns with a meaning; only ``slide_id`` must be there, and any other column becomes an attribute.
COLUMNS = ("slide_id", "path", "mpp", "label", "patient_id", "split", "annotation")
#: Another name of the column ``patient_id``.
PATIENT = "patient"

#: Column of what is odd about a slide, words with semicolons between, and those of them that a record gives a meaning.
FLAGS = "flags"
FLAG_PARTIAL = "partial_annotation"
FLAG_NO_FROC = "no_froc"


def load(
    *,
    manifest: Path | None = None,
    root: Path | None = None,
    positive: str | None = None,
    classes: Sequence[str] = (),
) -> list[SlideRecord]:
    """Return the slides of a manifest in its order.

    Args:
        manifest: the CSV file, see `read_manifest`.
        root: folder that relative paths start from; the manifest's own unless given.
        positive: name of the positive class of two, whose names are then forgotten.
        classes: names of all classes in their order, see `read_labels`.

    Raises:
        UsageError: no manifest was given.
        DatasetError: the manifest is not as described, lists a slide twice, or splits a patient.
    """
    path = required(manifest)
    return read_manifest(path, root=root or path.parent, positive=positive, classes=classes)


def required(manifest: Path | None) -> Path:
    """Return the manifest that was given.

    Raises:
        UsageError: none was.
    """
    if manifest is None:
        raise UsageError(f"this data set needs a manifest: --manifest FILE, a CSV with {', '.join(COLUMNS)}")
    return manifest


def read_manifest(
    path: Path,
    *,
    root: Path | None,
    positive: str | None = None,
    classes: Sequence[str] = (),
    labels: bool = True,
) -> list[SlideRecord]:
    """Read a manifest.

    Columns: ``slide_id`` (unique), ``path`` and ``annotation`` (relative to ``root``, or beginning with ``~``; ``path``
        may be the URL of a zarr slide), ``mpp`` (um per level-0 pixel), ``label`` (0, 1, true, false, or names of
        classes, see `read_labels`), ``patient_id`` or ``patient`` (the slide's own name unless given), ``split``
        (train, validation, test). An empty cell means unknown; further columns become attributes. Of ``flags``,
        partial_annotation and no_froc become ``outlines_complete`` and ``counts_for_lesions``.

    Args:
        path: the CSV file, see `read_table`.
        root: folder that relative paths start from; None leaves slides and annotations without a path.
        positive: name of the positive class of two; every other name is then 0.
        classes: names of all classes in their order.
        labels: whether labels are read, which is of no use where nothing is trained.

    Raises:
        MissingDataError: there is no such file.
        DatasetError: naming file and line, where the table is wrong.
    """
    return records_of(read_rows(path), root=root, positive=positive, classes=classes, labels=labels)


def read_rows(path: Path) -> Table:
    """Read the table of a manifest, with at least one line and no column that is almost one of `COLUMNS`.

    Raises:
        MissingDataError: there is no such file.
        DatasetError: naming the file, where the table is wrong.
    """
    if not path.exists():
        raise MissingDataError(f"no manifest at {path.absolute()}")
    table = read_table(path, expects=("slide_id",))
    if "slide_id" not in table.columns:
        raise DatasetError(
            f"{path}: expected a header with slide_id and any of {', '.join(COLUMNS[1:])}; the columns are "
            f"{', '.join(map(repr, table.columns))}"
        )
    # A column Split would be passed over, and the slides split anew.
    table.refuse_near((*COLUMNS, PATIENT))
    _refuse_two_patients(table)
    if not table.rows:
        raise DatasetError(f"{path} lists no slides; expected a header and one line per slide")
    return table


def records_of(
    table: Table,
    *,
    root: Path | None,
    positive: str | None = None,
    classes: Sequence[str] = (),
    labels: bool = True,
) -> list[SlideRecord]:
    """Return the slides of a manifest's table, see `read_manifest`.

    Raises:
        DatasetError: naming file and line, where the table is wrong.
    """
    path = table.path
    names = {row["label"] for row in table.rows if row.get("label")}
    if lost := shortened(row["slide_id"] for row in table.rows):
        raise DatasetError(f"{path}: {lost}")
    mpps = _mpps(table)
    known = read_labels(table, positive=positive, classes=classes) if labels else {}
    records = [
        _record(row, root=root, label=known.get(row.line, Label(None)), mpp=mpps.get(row.line))
        for row in table.rows
    ]
    if positive is not None and positive not in names:
        raise DatasetError(
            f"{path}: no slide is labelled {positive!r}; labels present: {', '.join(sorted(names))}"
        )
    check_records(records)
    if same := alike(record.slide_id for record in records):
        raise DatasetError(f"{path}: {same}; if they are one slide, keep one line, else rename one")
    return records


def _refuse_two_patients(table: Table) -> None:
    """Refuse a table whose two columns of patients differ: which of them is meant decides the splits."""
    if not {"patient_id", PATIENT} <= set(table.columns):
        return
    odd = next((row for row in table.rows if row["patient_id"] != row[PATIENT]), None)
    if odd is not None:
        raise DatasetError(
            f"{odd.where}: patient_id is {odd['patient_id']!r} and patient {odd[PATIENT]!r}; keep one of the columns"
        )


def _record(row: Row, *, root: Path | None, label: Label, mpp: float | None) -> SlideRecord:
    path, annotation = row.get("path"), row.get("annotation")
    flags = {flag.strip() for flag in (row.get(FLAGS) or "").split(";")}
    try:
        return SlideRecord(
            slide_id=row["slide_id"],
            path=place_of(path, root=root) if root and path else None,
            annotation=root / expand_home(annotation) if root and annotation else None,
            outlines_complete=FLAG_PARTIAL not in flags,
            counts_for_lesions=FLAG_NO_FROC not in flags,
            label=label.number,
            label_name=label.name,
            patient_id=row.get("patient_id") or row.get(PATIENT),
            split=row.get("split") or None,
            mpp=mpp,
            attributes={name: cell for name, cell in row.cells.items() if name not in (*COLUMNS, PATIENT)},
            listed_at=row.where,
        )
    except (DatasetError, UsageError) as error:
        raise DatasetError(f"{row.where}: {error}") from error


def _mpps(table: Table) -> dict[int, float]:
    """Micrometres per pixel by line, of the lines that have them."""
    low, high = MPP_RANGE
    rows = [row for row in table.rows if row.get("mpp")]
    found = dict(
        zip((row.line for row in rows), table.numbers([row.cell("mpp") for row in rows]), strict=True)
    )
    for row in rows:
        if not low <= found[row.line] <= high:
            raise DatasetError(
                f"{row.where}: mpp must be micrometres per level-0 pixel in {low}–{high}, got {row['mpp']}"
            )
    return found
