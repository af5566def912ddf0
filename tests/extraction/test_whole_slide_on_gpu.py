"""A slide in one pass through the GPU's encoder, which here computes on CPU tensors: the wiring, not the speed."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.encode import ScratchEncoder, StripEncoder
from wsi_vmamba.errors import UsageError
from wsi_vmamba.extraction import encoders
from wsi_vmamba.inference.cuda_encoder import CudaEncoder
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features

PICO = {"backbone": "vmamba_pico", "precision": "fp32", "device": "cpu", "region_px": "whole"}


@functools.cache
def gpu_encoder(memory_limit: int | None = None) -> CudaEncoder:
    """Narrow and flat: on the CPU its scan goes token by token."""
    backbone = build_backbone({"depths": [1, 1], "dims": [8, 16]})
    assert isinstance(backbone, VMamba)
    return CudaEncoder("vmamba_pico", backbone, precision="fp32", device="cpu", memory_limit=memory_limit)


@pytest.fixture(autouse=True)
def _gpu_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `build_encoder` builds for a GPU, with its tensors on the CPU."""
    monkeypatch.setattr(
        encoders, "build_encoder", lambda name, *, memory_limit, **_: gpu_encoder(memory_limit)
    )


@pytest.fixture
def one_slide(tmp_path: Path, write_tiny_slide) -> Path:
    return write_tiny_slide(tmp_path / "slides" / "s0.tif", width=128, height=64).parent


def test_whole_passes_through_in_strips_and_goes_on_after_an_interruption(
    one_slide, tmp_path, extract_config, store_bytes, monkeypatch, capsys
):
    encoder = gpu_encoder()
    assert isinstance(encoder, ScratchEncoder)
    assert not isinstance(encoder, StripEncoder)
    config = extract_config(one_slide, tmp_path / "whole", **PICO)
    with monkeypatch.context() as patch:
        write, calls = Scratch._write, iter(range(1000))

        def stop(*values: object) -> None:
            if next(calls) == 9:
                raise KeyboardInterrupt
            write(*values)

        patch.setattr(Scratch, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            extract.run(config)
    assert extract.run(config)
    said = capsys.readouterr().out
    assert "goes on in the middle of a region" in said
    assert "GB of device memory for strips of 64 px" in said
    assert extract.run(extract_config(one_slide, tmp_path / "alone", **PICO))
    assert store_bytes(tmp_path / "whole") == store_bytes(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "whole").iterdir() if path.name.startswith(".")] == []
    # The features of a region that lies in the GPU's memory, which the files keep in half precision.
    assert extract.run(extract_config(one_slide, tmp_path / "memory", **{**PICO, "region_px": 10_000}))
    whole, memory = (open_features(tmp_path / folder / "s0.zarr") for folder in ("whole", "memory"))
    np.testing.assert_allclose(whole.features, memory.features, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(whole.coords_l0, memory.coords_l0)


def test_too_little_device_memory_is_refused_and_leaves_nothing(
    one_slide, tmp_path, extract_config, read_outcomes
):
    config = extract_config(one_slide, tmp_path / "out", memory_limit_gb=1e-5, **PICO)
    assert not extract.run(config)
    assert "of device memory even in strips" in read_outcomes(tmp_path / "out")["s0"]["detail"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_glass_cannot_be_left_out(one_slide, tmp_path, extract_config):
    with pytest.raises(UsageError, match="background=skip is for VMambas on the CPU"):
        extract.run(extract_config(one_slide, tmp_path / "out", background="skip", **PICO))
