"""The probe of tumour patches: it finds what is in the features, nothing where nothing is, and knows the border."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def test_the_border_is_where_a_neighbour_is_missing(load):
    there = [(x, y) for y in range(3) for x in range(4) if (x, y) != (0, 0)]
    border = load("tumour_patches")._border(np.array(there))
    assert [place for place, at in zip(there, border, strict=True) if not at] == [(2, 1)]


def test_features_that_know_the_outline_are_told_from_those_that_do_not(
    load, tmp_path: Path, write_patches, write_outlines, capsys
):
    draw = np.random.default_rng(0)
    rows = ["slide_id,path,label,split,annotation"]
    outlines = write_outlines(tmp_path / "o.geojson", ((256, 256, 1024, 1024), "Tumor"))
    for index in range(6):
        label, split = index % 2, "train" if index < 3 else "test"
        rows.append(f"s{index},s{index}.tif,{label},{split},{outlines if label else ''}")
        noise = draw.normal(size=(6, 6, 4)).astype(np.float32)
        write_patches(tmp_path / "blind", f"s{index}", noise)
        known = noise.copy()
        known[1:4, 1:4, 0] += 20 * label
        write_patches(tmp_path / "knows", f"s{index}", known)
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    found = load("tumour_patches").main([str(tmp_path / name) for name in ("slides.csv", "blind", "knows")])
    assert found["knows"] == pytest.approx(1.0)
    assert found["blind"] < 0.8
    assert "| knows | 108 (18) | 1.0000 (1.0000 to 1.0000) |" in capsys.readouterr().out
