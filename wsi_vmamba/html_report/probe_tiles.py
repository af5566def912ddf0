"""The tiles that a probe gets most wrong, as pictures where they are still there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import StoreError
from wsi_vmamba.html_report.markup import Html, element, figure, join, paragraph, table
from wsi_vmamba.html_report.pictures import PATCH_PX, image, picture_file
from wsi_vmamba.table import Row, read_table


@dataclass(frozen=True, kw_only=True)
class JudgedTile:
    """A tile of predictions.csv; ``share`` is the probability of its own class."""

    file: str
    group: str
    truth: str
    predicted: str
    share: float


def worst_tiles(folder: Path, tiles: object, encoder: str, *, count: int) -> Html:
    """The tiles to whose own class an encoder's probe gives the least.

    Args:
        folder: of the probe.
        tiles: folder of the tiles, as the probe was given it.
        encoder: whose probe.
        count: how many.
    """
    path = folder / "predictions.csv"
    if not path.is_file():
        return paragraph("There is no predictions.csv beside the results, so single tiles are not known.")
    found = sorted(_read(path, encoder), key=lambda one: (one.share, one.file))[:count]
    place = Path(tiles) if isinstance(tiles, str) else None
    shown = [_picture(one, place) for one in found]
    pictures = [one for one in shown if one]
    missing = len(shown) - len(pictures)
    rows = [(one.file, one.group, one.truth, one.predicted, f"{one.share:.4f}") for one in found]
    columns = ("tile", "group", "class", "called", "probability of its class")
    said = paragraph(f"{missing} of them are no longer where they were, or are cells of larger pictures; "
                     "they are in the table only.", mark="soft") if missing else Html()  # fmt: skip
    return join(
        [
            paragraph(f"By the probe of {encoder}."),
            element("div", *pictures, class_="tiles") if pictures else Html(),
            said,
            table(columns, rows, caption=f"{len(rows)} tiles with the lowest probability of their own class"),
        ]
    )


def _read(path: Path, encoder: str) -> list[JudgedTile]:
    read = read_table(path, expects=("encoder", "file", "class"), error=StoreError)
    read.require(("encoder", "file", "group", "class", "predicted"))
    return [_tile(row) for row in read.rows if row["encoder"] == encoder]


def _tile(row: Row) -> JudgedTile:
    try:
        share = float(row.get(f"p_{row['class']}"))
    except ValueError as error:
        raise StoreError(f"{row.where}: damaged ({error}); make it anew with `wsi-vmamba probe`") from error
    return JudgedTile(
        file=row["file"], group=row["group"], truth=row["class"], predicted=row["predicted"], share=share
    )


def _picture(one: JudgedTile, tiles: Path | None) -> Html:
    if tiles is None or ".." in Path(one.file).parts or Path(one.file).is_absolute():
        return Html()
    pixels = picture_file(tiles / one.file, most_px=PATCH_PX)
    if pixels is None:
        return Html()
    words = f"{one.truth}, called {one.predicted}; {one.share:.3f} for its own class"
    return figure(image(pixels, alt=f"{one.file}: {words}"), f"{words} (group {one.group})", kind="picture")
