"""Many slides in one run, sound and broken ones: memory, open files and threads stay where they are."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from wsi_vmamba.pipelines import extract


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize(
    ("n", "warm_up", "most_mb"), [(20, 8, 8.0), pytest.param(200, 20, 8.0, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_nothing_grows_with_the_number_of_slides(
    write_tiny_slide,
    tmp_path,
    extract_config,
    read_outcomes,
    monkeypatch,
    n: int,
    warm_up: int,
    most_mb: float,
):
    for index in range(n):
        path = write_tiny_slide(tmp_path / "slides" / f"s{index:03}.tif", index)
        if index % 5 == 4:  # errors hold frames, frames hold pixels
            os.truncate(path, path.stat().st_size // 2)
    seen: list[tuple[int, int, float]] = []

    def watch(_: object) -> None:
        if len(seen) in (warm_up, n - 1):
            gc.collect()
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        seen.append((files, threading.active_count(), resident_mb()))

    monkeypatch.setattr(extract, "_say_outcome", watch)
    assert extract.run(extract_config(tmp_path / "slides", tmp_path / "out")) is False
    outcomes = [row["outcome"] for row in read_outcomes(tmp_path / "out").values()]
    assert (outcomes.count("done"), outcomes.count("failed")) == (n - n // 5, n // 5)
    warm, last = seen[warm_up:], seen[-1]
    assert {files for files, _, _ in warm} == {last[0]}
    # The thread of the slide before may still be on its way out.
    assert max(count for _, count, _ in warm) <= warm[0][1] + 2
    grown = [round(mb - warm[0][2], 1) for _, _, mb in warm]
    assert grown[-1] < most_mb, grown[:: max(1, n // 20)]
