"""Recipe: the files of a public data set to a folder, resumable and checked."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import DownloadConfig
from wsi_vmamba.datasets import REMOTE_DATASETS
from wsi_vmamba.datasets.download import fetch_all, in_gb, known_md5, require_space, write_inventory
from wsi_vmamba.datasets.fetch import missing_bytes
from wsi_vmamba.datasets.remote import RemoteDataset
from wsi_vmamba.durable import require_writable


def run(config: DownloadConfig) -> bool:
    """Download what is missing; return whether every file is there."""
    remote: RemoteDataset = REMOTE_DATASETS.resolve(config.dataset)
    bucket = remote.open(endpoint_url=config.endpoint_url)
    folder = Path(config.to)
    require_writable(folder, option="--to")
    slides = remote.choose(config.slides)
    files = remote.files(bucket, slides, annotations=config.annotations)
    checksums = remote.read_checksums(bucket)
    left = sum(missing_bytes(folder / path, file) for path, file in files.items())
    console.say(
        f"{config.dataset}: {len(slides)} slides, {len(files)} files, "
        f"{in_gb(sum(f.size_bytes for f in files.values()))} GB, "
        f"{in_gb(left)} GB still to come from s3://{remote.bucket}/{remote.prefix} ({remote.source})"
    )
    require_space(folder, left)
    unchecked = [path for path, file in files.items() if not known_md5(path, file, checksums)]
    if unchecked:
        console.say(f"note: {len(unchecked)} files have no published checksum; their size is checked")
    failed = fetch_all(bucket, files, checksums, folder, workers=config.workers)
    write_inventory(folder, files, checksums, failed)
    for path, error in failed.items():
        console.warn(f"{path}: {error}")
    if failed:
        console.say(f"{len(failed)} of {len(files)} files are missing; run the same command again to go on")
        return False
    console.say(f"complete in {folder}; next: wsi-vmamba check {config.dataset} {folder}")
    return True
