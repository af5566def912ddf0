"""Which report is made of a folder. One line a kind, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wsi_vmamba import folder_kinds
from wsi_vmamba.config import ReportConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.html_report.page import HtmlReport
from wsi_vmamba.registry import load_attribute


class MakeReport(Protocol):
    """Makes the report of a folder."""

    def __call__(self, folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
        """Return the report; nothing is written."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        make: what makes its report, as "module:function", loaded when it is needed.
        compares: whether several can be put side by side.
    """

    make: str
    compares: bool = False

    def load(self) -> MakeReport:
        """Import and return what makes the report."""
        found: MakeReport = load_attribute(self.make)
        return found


KINDS: Mapping[str, Kind] = {
    folder_kinds.RUN: Kind("wsi_vmamba.html_report.of_run:report_run", compares=True),
    folder_kinds.PREDICTIONS: Kind("wsi_vmamba.html_report.of_predictions:report_predictions"),
    folder_kinds.PROBE: Kind("wsi_vmamba.html_report.of_probe:report_probe"),
    folder_kinds.FEATURES: Kind("wsi_vmamba.html_report.of_features:report_features"),
}


def kind_of(folder: Path) -> str:
    """The kind of a folder.

    Raises:
        UsageError: there is no such folder, or nothing in it that a report can be made of.
    """
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"no such folder: {folder}"
        raise UsageError(f"{what}; give the folder of a run, a probe, features or predictions")
    found = folder_kinds.kind_of(folder)
    if found == folder_kinds.FEATURES and folder_kinds.is_feature_file(folder):
        raise UsageError(f"{folder} is one feature file; give the folder that it lies in")
    if found is not None and found in KINDS:
        return found
    if found == folder_kinds.SLIDES:
        raise UsageError(
            f"{folder} holds slides, and a report is of what was made of them; `wsi-vmamba extract` them first, and "
            "give the folder of their features"
        )
    raise UsageError(
        f"{folder}: expected a run that `train` finished, what `probe --out` or `predict --out` left, or a folder of "
        "features; it holds none of them"
    )
