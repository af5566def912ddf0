"""What a folder is, and which report is made of it. One line a kind, one file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wsi_vmamba.config import ReportConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.html_report.page import HtmlReport
from wsi_vmamba.registry import load_attribute
from wsi_vmamba.training.folders import CONFIG, RECORD


class MakeReport(Protocol):
    """Makes the report of a folder."""

    def __call__(self, folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
        """Return the report; nothing is written."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        is_one: whether a folder is of it, by what lies there.
        make: what makes its report, as "module:function", loaded when it is needed.
        compares: whether several can be put side by side.
    """

    is_one: Callable[[Path], bool]
    make: str
    compares: bool = False

    def load(self) -> MakeReport:
        """Import and return what makes the report."""
        found: MakeReport = load_attribute(self.make)
        return found


def _is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file() and (folder / CONFIG).is_file()


def _is_probe(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("results.json", "predictions.csv"))


def _is_prediction(folder: Path) -> bool:
    return (folder / "predict.run.json").is_file()


def _is_features(folder: Path) -> bool:
    return (folder / "extract.csv").is_file() or any(folder.glob("*.zarr/features/zarr.json"))


#: The first that fits is taken; predictions come before features, since they may hold some.
KINDS: Mapping[str, Kind] = {
    "run": Kind(_is_run, "wsi_vmamba.html_report.of_run:report_run", compares=True),
    "predictions": Kind(_is_prediction, "wsi_vmamba.html_report.of_predictions:report_predictions"),
    "probe": Kind(_is_probe, "wsi_vmamba.html_report.of_probe:report_probe"),
    "features": Kind(_is_features, "wsi_vmamba.html_report.of_features:report_features"),
}


def kind_of(folder: Path) -> str:
    """The kind of a folder.

    Raises:
        UsageError: there is no such folder, or nothing in it that a report can be made of.
    """
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; give that of a run, a probe, features or predictions")
    for name, kind in KINDS.items():
        if kind.is_one(folder):
            return name
    raise UsageError(
        f"{folder}: expected a run that `train` finished, what `probe --out` or `predict --out` left, or a folder of "
        "features; it holds none of them"
    )
