"""Recipe: whether the files of a public data set are all in a folder, and sound."""

from __future__ import annotations

import json
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import CheckConfig
from wsi_vmamba.datasets import REMOTE_DATASETS
from wsi_vmamba.datasets.check import check_outlines, check_slides
from wsi_vmamba.datasets.remote import RemoteDataset
from wsi_vmamba.durable import require_writable, write_atomic
from wsi_vmamba.errors import MissingDataError


def run(config: CheckConfig) -> bool:
    """Print what is missing, extra or damaged; return whether nothing is missing or damaged.

    Raises:
        MissingDataError: there is no such folder.
    """
    remote: RemoteDataset = REMOTE_DATASETS.resolve(config.dataset)
    folder = Path(config.folder)
    if config.json_out:
        require_writable(Path(config.json_out).parent, option="--json")
    if not folder.is_dir():
        raise MissingDataError(
            f"no folder {folder.absolute()}; get the data with `wsi-vmamba download {config.dataset} --to DIR`"
        )
    expected = remote.choose(config.slides)
    slides = check_slides(remote, folder, expected, checksums=config.checksums)
    outlines, notes = check_outlines(remote, folder, expected)
    for name, lines in notes.items():
        console.say_notes(name, lines)
    findings = [*slides, *outlines]
    counts = {kind: sum(one.kind == kind for one in findings) for kind in ("missing", "extra", "damaged")}
    if findings:
        rows = [(one.kind, one.path, one.cause) for one in findings]
        console.print_table(f"{folder}", ("what", "file", "cause"), rows)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    console.say(f"{config.dataset}: {len(expected)} slides expected; {summary}")
    if counts["missing"] or counts["damaged"]:
        console.say(
            f"remove the damaged files, then fetch what is missing: wsi-vmamba download {config.dataset} --to {folder}"
        )
    if config.json_out:
        content = {"expected": len(expected), **counts, "findings": [vars(one) for one in findings]}
        write_atomic(Path(config.json_out), json.dumps(content, indent=2) + "\n")
    return not (counts["missing"] or counts["damaged"])
