"""Checkpoints that mean harm: refused at once, without running anything and without growing."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def attempt(serve_hostile) -> Callable[[Path], dict[str, object]]:
    return serve_hostile("weights")


class Harm:
    """Makes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def checkpoint(**tensors: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save({"model": tensors}, file)
    return file.getvalue()


def code_in_a_pickle(tmp: Path) -> Path:
    (tmp / "a.pth").write_bytes(pickle.dumps({"model": Harm(tmp / "ran")}))
    return tmp / "a.pth"


def code_in_a_checkpoint(tmp: Path) -> Path:
    torch.save({"model": {"w": torch.zeros(3)}, "config": Harm(tmp / "ran")}, tmp / "a.pth")
    return tmp / "a.pth"


def inflating_zip(tmp: Path) -> Path:
    with (
        zipfile.ZipFile(io.BytesIO(checkpoint(w=torch.zeros(3)))) as sound,
        zipfile.ZipFile(tmp / "a.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in sound.infolist():
            content = bytes(1 << 28) if entry.filename.endswith("/data/0") else sound.read(entry)
            bomb.writestr(entry.filename, content)
    return tmp / "a.pth"


def storage_of_a_terabyte(tmp: Path) -> Path:
    """The old format, whose sizes stand in a pickle."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(1234567)}, file, _use_new_zipfile_serialization=False)
    claimed = file.getvalue().replace(struct.pack("<i", 1234567), struct.pack("<i", 2**31 - 1))
    (tmp / "a.pth").write_bytes(claimed[:2000])
    return tmp / "a.pth"


def header_of_an_exabyte(tmp: Path) -> Path:
    (tmp / "a.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return tmp / "a.safetensors"


def tensor_beyond_the_file(tmp: Path) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return tmp / "a.safetensors"


REFUSED_UNREAD = (code_in_a_pickle, code_in_a_checkpoint, inflating_zip)


@pytest.mark.parametrize(
    "make",
    [
        code_in_a_pickle, code_in_a_checkpoint, inflating_zip, storage_of_a_terabyte, header_of_an_exabyte,
        tensor_beyond_the_file,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_hostile_weights(attempt, tmp_path: Path, make: Callable[[Path], Path]):
    report = attempt(make(tmp_path))
    assert report["error"] == "WeightsError", report
    assert str(tmp_path) in str(report["message"])
    assert ("was refused" in str(report["message"])) == (make in REFUSED_UNREAD), report
    assert float(str(report["s"])) < 1.0, report
    assert float(str(report["mb"])) < 60, report
    assert not (tmp_path / "ran").exists()
