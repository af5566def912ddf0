"""The one reader of CSV tables, whoever wrote them: Excel in any locale, R, pandas, a text editor."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.cells import Cell, loose, read_numbers
from wsi_vmamba.errors import DatasetError, WsiVmambaError

#: What may divide cells, the likelier first.
DELIMITERS = (",", ";", "\t", "|")
#: First line with which Excel is told the delimiter, and which it leaves in the file.
_EXCEL_HINT = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
#: How pandas heads the numbers of its rows, if at all, and any column without a name.
_NAMELESS = re.compile(r"|Unnamed: \d+")
#: How files begin that are no CSV in UTF-8, and what they are.
_OTHER_FILES = (
    ((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16 (in Excel: Unicode Text)"),
    ((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"), "a workbook of a spreadsheet, or a zip"),
    ((b"\x1f\x8b",), "compressed with gzip"),
    ((b"<",), "a web page or XML"),
)
#: What spreadsheets leave at the ends of cells beside blanks: a byte order mark, a blank of no width.
_INVISIBLE = "\ufeff\u200b"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: its cells by column, stripped, and where it stands."""

    cells: dict[str, str]
    path: Path
    line: int

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}, line {self.line}"

    def get(self, column: str) -> str:
        """The cell of a column; empty where the table has none of that name."""
        return self.cells.get(column, "")

    def cell(self, column: str, *, what: str = "") -> Cell:
        """The cell with its place; ``what`` is what to call it, else the column's name."""
        return Cell(self.cells[column], what or column, self.where)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as read: at least a header; blank lines are left out."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    delimiter: str
    error: type[WsiVmambaError]

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a table without these columns.

        Raises:
            WsiVmambaError: of the table's class, naming what is missing and what there is.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise self.error(
                f"{self.path}: expected a header with {', '.join(columns)}; {', '.join(missing)} is missing, the "
                f"columns are {', '.join(map(repr, self.columns))}"
            )

    def refuse_near(self, known: Collection[str]) -> None:
        """Refuse a column whose name is a known one but for case, blanks, underscores or hyphens: it would not count.

        Raises:
            WsiVmambaError: of the table's class, naming both.
        """
        meant = {loose(name): name for name in known if name not in self.columns}
        for name in self.columns:
            if loose(name) in meant:
                raise self.error(f"{self.path}: the column {name!r} must be called {meant[loose(name)]!r}")

    def numbers(self, cells: Sequence[Cell]) -> list[float]:
        """Read cells of this table as numbers, see `read_numbers`."""
        return read_numbers(cells, decimal_comma=self.delimiter != ",", error=self.error)


def read_table(
    path: Path, *, expects: Sequence[str] = (), error: type[WsiVmambaError] = DatasetError
) -> Table:
    """Read a table with a header: CSV in UTF-8, its cells divided by commas, semicolons, tabs or bars.

    Blank lines, blanks around cells and names, a byte order mark, Excel's line ``sep=;``, empty cells past the last
    named column and the row numbers of pandas are left out.

    Args:
        path: the file.
        expects: columns by which the delimiter is recognised; see `Table.require` to demand them.
        error: class of what is raised: that of the room that reads.

    Raises:
        WsiVmambaError: of the class ``error``, naming file, line and what to do: the file cannot be read or is none of
            this kind, a column comes twice or has no name, or a line has more or fewer cells than the header.
    """
    delimiter, lines = read_lines(path, fits=lambda cells: set(expects) <= set(cells), error=error)
    if not lines:
        raise error(f"{path} is empty; expected a header and one line for each row")
    (_, header), *body = lines
    while header and not header[-1]:
        header = header[:-1]
    _check_first_line(header, path, error)
    rows = [(line, _fitted(cells, header, where=f"{path}, line {line}", error=error)) for line, cells in body]
    kept = [
        place for place in range(len(header)) if not _is_index(header[place], [c[place] for _, c in rows])
    ]
    names = [header[place] for place in kept]
    _check_header(names, path, error)
    return Table(
        path=path,
        columns=tuple(names),
        rows=tuple(
            Row(cells={header[place]: cells[place] for place in kept}, path=path, line=line)
            for line, cells in rows
        ),
        delimiter=delimiter,
        error=error,
    )


def read_lines(
    path: Path, *, fits: Callable[[list[str]], bool], error: type[WsiVmambaError]
) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return the delimiter and, of every line that is not blank, its number and its stripped cells.

    Args:
        path: the file.
        fits: whether the cells of the first line are as expected, by which the delimiter is recognised; where that
            holds for none of them or several, it is the one that gives most cells.
        error: class of what is raised.

    Raises:
        WsiVmambaError: of the class ``error``: the file cannot be read, is no CSV in UTF-8, or has a quote that is not
            closed.
    """
    text = read_text(path, error=error)
    first, _, rest = text.partition("\n")
    hint = _EXCEL_HINT.fullmatch(first.rstrip("\r"))
    if hint:
        text, skipped, delimiter = rest, 1, hint[1]
    else:
        skipped = 0
        head = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=lambda one: (fits(_split(head, one)), len(_split(head, one))))
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    lines = []
    try:
        for cells in reader:
            stripped = _stripped(cells)
            if any(stripped):
                lines.append((skipped + reader.line_num, stripped))
    except csv.Error as problem:
        raise error(
            f"{path}, line {skipped + reader.line_num}: cannot be read as CSV ({problem}); is a quotation mark not "
            "closed?"
        ) from problem
    return delimiter, lines


def read_text(path: Path, *, error: type[WsiVmambaError]) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        WsiVmambaError: of the class ``error``, saying what the file is instead and what to do.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{path.absolute()} cannot be read ({problem.strerror})") from problem
    advice = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"
    for beginnings, words in _OTHER_FILES:
        if content.startswith(beginnings):
            raise error(f"{path} is {words}, no CSV; {advice}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}, line {line}: the byte 0x{content[problem.start]:02x} is not UTF-8, the file is in another "
            f"encoding; {advice}"
        ) from problem
    if "\0" in text:
        raise error(f"{path} holds zero bytes: it is text in UTF-16 or no text at all; {advice}")
    return text


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line that may begin a quoted cell and not end it."""
    return _stripped(next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), []))


def _stripped(cells: Sequence[str]) -> list[str]:
    return [cell.strip().strip(_INVISIBLE).strip() for cell in cells]


def _fitted(cells: list[str], header: Sequence[str], *, where: str, error: type[WsiVmambaError]) -> list[str]:
    """The cells of a line, as many as the header has."""
    if len(cells) < len(header):
        raise error(
            f"{where}: expected {len(header)} cells as in the header, got {len(cells)} ({', '.join(cells)}); an empty "
            "cell needs its delimiter too"
        )
    if any(cells[len(header) :]):
        raise error(
            f"{where}: expected {len(header)} cells as in the header, got {len(cells)} ({', '.join(cells)}); a cell "
            "that holds a comma, decimal or not, must be in quotation marks or the cells divided by semicolons"
        )
    return cells[: len(header)]


def _is_index(name: str, cells: Sequence[str]) -> bool:
    """Whether a column without a name of its own is empty, or numbers the rows as pandas does."""
    if not _NAMELESS.fullmatch(name):
        return False
    numbers = bool(cells) and all(re.fullmatch(r"\d{1,15}", cell) for cell in cells)
    # Rows may have been dropped or sorted since they were numbered.
    return not any(cells) or (numbers and len({int(cell) for cell in cells}) == len(cells))


def _check_first_line(header: Sequence[str], path: Path, error: type[WsiVmambaError]) -> None:
    """Refuse a first line that is no header, before the others are measured by it."""
    if header[:1] and header[0].startswith("#"):
        raise error(f"{path}: the first line is a comment ({header[0][:60]!r}); begin with the header")
    if len(header) == 1 and any(delimiter in header[0] for delimiter in DELIMITERS):
        raise error(
            f"{path}: the header is one cell in quotation marks ({header[0][:60]!r}); take those around whole "
            "lines away, or save the table again"
        )


def _check_header(header: Sequence[str], path: Path, error: type[WsiVmambaError]) -> None:
    for name in header:
        if _NAMELESS.fullmatch(name):
            raise error(
                f"{path}: column {header.index(name) + 1} has no name in the header{f' but {name!r}' if name else ''}, "
                "and its cells are no row numbers; name it"
            )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise error(f"{path}: columns come twice in the header: {', '.join(twice)}")
