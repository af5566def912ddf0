"""The folder that `detect` fills: a GeoJSON for each slide, a table of all of them, and who made them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.config.detector import DetectConfig
from wsi_vmamba.detection.file import detector_file
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, StoreError
from wsi_vmamba.provenance import write_run_record

COMMAND, TABLE = "detect", "detections.csv"
#: Settings that decide what is found, beside the detector.
_DECIDING = ("least_score", "window_px", "overlap_px", "segmenter", "mpp_override")


def maker(config: DetectConfig) -> dict[str, Any]:
    """What decides the objects of a slide: a hash of the detector's file, and settings.

    Raises:
        MissingDataError: there is no detector.
    """
    with detector_file(config.detector).open("rb") as file:
        made_by: dict[str, Any] = {"detector_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    settings = config.model_dump(mode="json")
    return {**made_by, **{name: settings[name] for name in _DECIDING}}


class DetectionFolder:
    """What one detector found with one choice of settings: a slide is done if it has a row and a GeoJSON."""

    def __init__(
        self,
        config: DetectConfig,
        *,
        classes: Sequence[str],
        slide_ids: Sequence[str],
        made_by: dict[str, Any],
    ) -> None:
        """Look at what is there; nothing is written.

        Args:
            config: of the run, with the folder.
            classes: of the detector.
            slide_ids: the slides that this run is about.
            made_by: see `maker`.

        Raises:
            IncompatibleStoreError: another detector or other settings made what is there, unless it is to be replaced.
            StoreError: the record or the table cannot be read.
        """
        self.out, self._config, self._made_by = Path(config.out), config, made_by
        self._header = ("slide_id", "windows", "objects", *classes)
        self._slide_ids = tuple(slide_ids)
        self._differs = self._who_made_it() != made_by
        self._rows: dict[str, tuple[object, ...]] = {} if self._differs else self._read_rows()
        if not config.overwrite:
            self._refuse_others()

    def geojson(self, slide_id: str) -> Path:
        """The file with the objects of a slide."""
        return self.out / f"{slide_id}.geojson"

    def is_done(self, slide_id: str) -> bool:
        """Whether this detector has finished a slide."""
        return slide_id in self._rows and self.geojson(slide_id).is_file()

    def begin(self, facts: dict[str, Any]) -> None:
        """Remove what another made of these slides, then record who makes what comes.

        Raises:
            StoreError: a file cannot be removed or written.
        """
        if self._config.overwrite:
            self._remove_others()
        write_run_record(
            self.out, command=COMMAND, config=self._config, facts={**facts, "made_by": self._made_by}
        )

    def keep(self, slide_id: str, *, windows: int, counts: Sequence[int], geojson: str) -> None:
        """Write the row and the GeoJSON of a slide.

        Raises:
            StoreError: one of them cannot be written.
        """
        self._rows[slide_id] = (slide_id, windows, sum(counts), *counts)
        # The row first: a GeoJSON without one is somebody else's, and a row without a GeoJSON is a slide to be done.
        self._write_table()
        write_atomic(self.geojson(slide_id), geojson)

    def _write_table(self) -> None:
        write_atomic(self.out / TABLE, csv_text(self._header, self._rows.values()))

    def _who_made_it(self) -> object:
        """As the record has it; None where there are slides without one; who would make it where there is nothing."""
        record = self.out / f"{COMMAND}.run.json"
        if not record.is_file():
            return None if (self.out / TABLE).exists() else self._made_by
        try:
            return json.loads(record.read_bytes())["made_by"]
        except KeyError:  # of a version that did not record it
            return None
        except (OSError, ValueError, TypeError) as error:
            if self._config.overwrite:
                return None
            raise StoreError(
                f"{record} cannot be read ({error}); choose another --out, or replace what is there with --overwrite"
            ) from error

    def _read_rows(self) -> dict[str, tuple[object, ...]]:
        """The rows of slides whose GeoJSON is there."""
        path = self.out / TABLE
        try:
            header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(f"{path} cannot be read ({error}); {self._remedy(path)}") from error
        if tuple(header) != self._header or any(len(line) != len(header) for line in lines):
            raise StoreError(
                f"{path} was changed: expected the columns {', '.join(self._header)} and as many cells in every line; "
                f"{self._remedy(path)}"
            )
        return {line[0]: tuple(line) for line in lines if self.geojson(line[0]).is_file()}

    @staticmethod
    def _remedy(path: Path) -> str:
        return f"choose another --out, or remove {path.name} and find the objects again with --overwrite"

    def _remove_others(self) -> None:
        table = [self.out / TABLE] if self._differs else []
        for path in (*table, *(self.geojson(one) for one in self._slide_ids if one not in self._rows)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot remove {path} ({error.strerror}), which something else made; choose another --out"
                ) from error

    def _refuse_others(self) -> None:
        if self._differs:
            raise IncompatibleStoreError(
                f"{self.out} holds what another detector, or other settings than these ({', '.join(_DECIDING)}), "
                "found; choose another --out, or replace it with --overwrite"
            )
        for slide_id in self._slide_ids:
            path = self.geojson(slide_id)
            if slide_id not in self._rows and path.exists():
                raise IncompatibleStoreError(
                    f"{path} is there, but not in {TABLE}, so something else made it; choose another --out, or replace "
                    "it with --overwrite"
                )
