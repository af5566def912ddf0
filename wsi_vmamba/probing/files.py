"""What a probe leaves in a folder: results.json and predictions.csv."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.evaluation.json_file import write_json
from wsi_vmamba.probing.results import Probe

RESULTS, PREDICTIONS = "results.json", "predictions.csv"


def write_probe(found: Probe, out: Path) -> None:
    """Write both files into ``out``, which is made."""
    write_json(out / RESULTS, found.to_dict())
    write_atomic(out / PREDICTIONS, csv_text(*found.predictions()))
