"""`embed` and `extract` from Python: the command's bytes, its settings, its errors, and nothing written unasked."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsi_vmamba as wv
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder, build_encoder
from wsi_vmamba.errors import (
    ConfigError,
    IncompatibleStoreError,
    MissingMppError,
    NoTissueError,
    SlideError,
    StoreError,
    UsageError,
)
from wsi_vmamba.extraction import encoding, tissue_files
from wsi_vmamba.pipelines import extract as recipe

SETTINGS = {"backbone": "null", "segmenter": "all", "patch_px": 64, "region_px": 320}


@pytest.fixture
def slide(tmp_path: Path, write_tiny_slide) -> Path:
    return write_tiny_slide(tmp_path / "slides" / "s.tif")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_embed_gives_what_the_feature_file_holds_and_writes_nothing(
    slide, tmp_path, extract_config, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    found = wv.embed(slide, **SETTINGS)
    assert list((tmp_path / "empty").iterdir()) == []
    assert [path.name for path in slide.parent.iterdir()] == ["s.tif"]
    assert capsys.readouterr().out == ""
    assert recipe.run(extract_config(slide, tmp_path / "out")) is True
    stored = wv.open_features(tmp_path / "out" / "s.zarr")
    np.testing.assert_array_equal(found.features, stored.features)
    np.testing.assert_array_equal(found.coords_l0, stored.coords_l0)
    assert (found.features.dtype, found.coords_l0.dtype) == (np.float16, np.int64)
    assert found.features.shape[0] == len(found) == 80
    assert found.coords_l0[:3].tolist() == [[0, 0], [64, 0], [128, 0]]
    assert (found.patch_l0, found.mpp, found.slide_id, found.meta) == (64.0, 0.5, "s", stored.meta)
    assert found.tissue.mask.all()


def test_save_makes_the_bytes_of_the_command(slide, tmp_path, extract_config):
    assert recipe.run(extract_config(slide, tmp_path / "out")) is True
    found = wv.embed(str(slide), **SETTINGS)
    path = found.save(tmp_path / "saved")
    assert path == tmp_path / "saved" / "s.zarr"
    assert files_of(path) == files_of(tmp_path / "out" / "s.zarr")
    assert [entry.name for entry in path.parent.iterdir()] == ["s.zarr"]
    assert found.save(tmp_path / "saved") == path
    with pytest.raises(IncompatibleStoreError, match=r"target_mpp: stored 0\.5, asked 1\.0"):
        wv.embed(slide, **{**SETTINGS, "target_mpp": 1.0}).save(tmp_path / "saved")


def test_patches_of_damaged_tiles_are_left_out_and_saved_as_the_command_does(slide, tmp_path, extract_config):
    content = bytearray(slide.read_bytes())
    place = len(content) // 2
    content[place : place + 400] = b"\0" * 400
    slide.write_bytes(content)
    assert recipe.run(extract_config(slide, tmp_path / "out", on_bad_tile="skip")) is True
    found = wv.embed(slide, on_bad_tile="skip", **SETTINGS)
    assert 0 < found.meta.n_left_out < 80
    assert len(found) == 80 - found.meta.n_left_out
    assert files_of(found.save(tmp_path / "saved")) == files_of(tmp_path / "out" / "s.zarr")
    assert f"{found.meta.n_left_out} patches" in found._repr_html_()


def test_with_out_the_file_is_made_and_an_interrupted_slide_goes_on(
    slide, tmp_path, extract_config, monkeypatch
):
    pool, calls = encoding.pool_patches, []

    def interrupt(*values: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pool(*values, **options)

    monkeypatch.setattr(encoding, "pool_patches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wv.embed(slide, out=tmp_path / "features", **SETTINGS)
    found = wv.embed(slide, out=tmp_path / "features", **SETTINGS)
    assert len(calls) == 5  # two regions were kept, of four
    assert recipe.run(extract_config(slide, tmp_path / "out")) is True
    assert files_of(tmp_path / "features" / "s.zarr") == files_of(tmp_path / "out" / "s.zarr")
    np.testing.assert_array_equal(found.features, wv.open_features(tmp_path / "out" / "s.zarr").features)
    assert (tmp_path / "features" / "tissue" / "s.geojson").is_file()


def test_with_out_tissue_is_looked_for_once_and_is_that_of_the_features(slide, tmp_path, monkeypatch):
    seen, real = [], tissue_files.segment_tissue
    monkeypatch.setattr(
        tissue_files, "segment_tissue", lambda *args, **kw: seen.append(1) or real(*args, **kw)
    )
    made = wv.embed(slide, out=tmp_path / "out", **SETTINGS)
    assert len(seen) == 1
    again = wv.embed(slide, out=tmp_path / "out", **SETTINGS)  # the file is there, and holds no tissue
    assert len(seen) == 2
    np.testing.assert_array_equal(made.tissue.mask, again.tissue.mask)
    np.testing.assert_array_equal(made.features, again.features)


def test_an_interrupt_leaves_nothing_where_nothing_was_asked_for(slide, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoding, "pool_patches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wv.embed(slide, **SETTINGS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["slides"]


def test_one_encoder_may_serve_many_slides(slide, write_tiny_slide, tmp_path):
    encoder = build_encoder("null", device="cpu")
    other = write_tiny_slide(tmp_path / "other" / "t.tif", 3)
    settings = {key: value for key, value in SETTINGS.items() if key != "backbone"}
    first, second = (wv.embed(path, encoder=encoder, **settings) for path in (slide, other))
    np.testing.assert_array_equal(first.features, wv.embed(slide, **SETTINGS).features)
    assert not np.array_equal(first.features, second.features)


class HalfSquares(Encoder):
    """An encoder of 16 px a token: the mean of each colour."""

    name, weights_hash, precision, device = "half_squares", "none", "fp32", "cpu"
    dim, stride_px = 3, 16

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        height, width = (size // 16 for size in pixels.shape[:2])
        return (
            pixels[: height * 16, : width * 16]
            .reshape(height, 16, width, 16, 3)
            .mean((1, 3))
            .astype(np.float32)
        )


def test_an_encoder_of_ones_own_has_its_own_stride_and_its_settings_are_its_own(slide):
    settings = {"segmenter": "all", "patch_px": 16, "region_px": 320, "encoder": HalfSquares()}
    found = wv.embed(slide, **settings)
    with wv.open_slide(slide) as opened:
        pixels = opened.read_region(x_l0=32, y_l0=16, level=0, width_px=16, height_px=16)
    place = found.coords_l0.tolist().index([32, 16])
    np.testing.assert_allclose(found.features[place], pixels.mean((0, 1)), rtol=1e-3)
    with pytest.raises(ConfigError, match=r"multiple of 16 .the stride of half_squares., got 24"):
        wv.embed(slide, **{**settings, "patch_px": 24})
    for name, value in {"backbone": "null", "weights": "random", "device": "cpu"}.items():
        with pytest.raises(ConfigError, match=f"{name!r} is the encoder's"):
            wv.embed(slide, **settings, **{name: value})


@pytest.mark.parametrize("function", [wv.embed, wv.extract, wv.train, wv.evaluate, wv.compare])
def test_help_shows_types_and_defaults_and_nothing_of_how_they_are_checked(function):
    shown = str(inspect.signature(function))
    assert "Undefined" not in shown
    assert "Annotated" not in shown
    assert "Validator" not in shown


@pytest.mark.parametrize("function", [wv.embed, wv.extract])
@pytest.mark.parametrize("place", [None, np.zeros((4, 4, 3)), 3])
def test_what_is_no_path_is_refused_before_a_default_takes_its_place(function, place, slide, monkeypatch):
    monkeypatch.chdir(slide.parents[1])  # where the default folder of slides is
    with pytest.raises(ConfigError, match=r"^slides?: expected a path .*, got (NoneType|ndarray|int)$"):
        function(place, **SETTINGS)


@pytest.mark.parametrize("encoder", ["vmamba_pico", object(), build_encoder])
def test_what_is_no_encoder_is_refused_in_words(slide, encoder):
    with pytest.raises(
        ConfigError, match=r"expected a wsi_vmamba\.encode\.Encoder, got .* which has no .*stride_px"
    ):
        wv.embed(slide, encoder=encoder, segmenter="all")


def test_what_is_printed_is_a_line(slide, tmp_path):
    with wv.open_slide(slide) as opened:
        assert repr(opened) == "<TiffSlide s: 640 x 512 px, 2 levels, 0.5 um per pixel>"
    path = wv.embed(slide, **SETTINGS).save(tmp_path / "f")
    assert repr(wv.open_features(path)) == f"<FeatureFile {path}: 80 patches, 6 features each, of null>"
    with pytest.raises(StoreError, match=r"is a folder of 1 feature files; name one of them, as .*s\.zarr"):
        wv.open_features(tmp_path / "f")


def test_a_picture_is_given_not_written(slide, tmp_path):
    picture = wv.embed(slide, **SETTINGS).show()
    assert picture.format == "PNG"
    # The right half holds the patches: 10 x 8 squares in the colours of their components, all of them different.
    colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 80
    assert [path.name for path in slide.parent.iterdir()] == ["s.tif"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch_size": 64}, "unknown key 'patch_size'; did you mean 'patch_px'"),
        ({"cell_px": 64}, "'cell_px' is called 'patch_px' now"),
        ({"patch_px": 50}, "patch_px must be a multiple of 32"),
        ({"backbone": "vmamba_pica"}, "unknown backbone 'vmamba_pica' .did you mean 'vmamba_pico'"),
        ({"target_mpp": "0.5"}, "target_mpp: Input should be a valid number"),
    ],
)
@pytest.mark.parametrize("function", [wv.embed, wv.extract])
def test_settings_are_refused_with_the_words_of_the_command(settings, words, function, slide):
    with pytest.raises(ConfigError, match=words):
        function(slide, **settings)


def test_embed_is_of_one_slide(slide, write_tiny_slide):
    write_tiny_slide(slide.with_name("t.tif"))
    with pytest.raises(
        UsageError, match=r"holds 2 slides, and embed reads one; name it, or use wsi_vmamba\.extract"
    ):
        wv.embed(slide.parent, **SETTINGS)
    with pytest.raises(ConfigError, match=r"'workers' is for many slides; use wsi_vmamba\.extract"):
        wv.embed(slide, workers=2)


def test_what_ends_a_slide_is_raised(slide, write_tiny_slide, tmp_path):
    white = np.full((512, 512, 3), 255, np.uint8)
    tifffile.imwrite(tmp_path / "white.tif", white, tile=(64, 64), photometric="rgb", metadata=None)
    with pytest.raises(NoTissueError):
        wv.embed(tmp_path / "white.tif", mpp_override=0.5, **{**SETTINGS, "segmenter": "otsu"})
    with pytest.raises(SlideError, match="choose a target_mpp of"):
        wv.embed(slide, **{**SETTINGS, "target_mpp": 0.1})
    slide.write_bytes(slide.read_bytes()[:1000])
    with pytest.raises(SlideError):
        wv.embed(slide, **SETTINGS)


def test_extract_gives_a_table_of_outcomes(tiny_slides, tmp_path, capsys):
    (tiny_slides / "s1.tif").write_bytes((tiny_slides / "s1.tif").read_bytes()[:30_000])
    outcomes = wv.extract(tiny_slides, out=tmp_path / "out", **SETTINGS)
    assert capsys.readouterr().out == ""
    assert outcomes.ok is False
    assert [(one.slide_id, one.outcome) for one in outcomes] == [
        ("s0", "done"),
        ("s1", "failed"),
        ("s2", "done"),
    ]
    assert outcomes["s0"].patches == 80
    assert "copy the slide again" in outcomes["s1"].remedy
    with pytest.raises(KeyError):
        outcomes["s3"]
    text, html = str(outcomes), outcomes._repr_html_()
    assert (
        recipe.run(ExtractConfig(slides=str(tiny_slides), out=str(tmp_path / "again"), **SETTINGS)) is False
    )
    printed = capsys.readouterr().out
    assert text.splitlines()[2:] == printed.splitlines()[-3:]
    assert text.startswith(f"2 of 3 slides have features in {tmp_path / 'out'} (0 were there already); ")
    assert "<td>s1</td><td>failed</td>" in html
    (tiny_slides / "s1.tif").unlink()
    assert wv.extract(tiny_slides, out=tmp_path / "out", **SETTINGS).ok is True


def test_what_a_notebook_shows_is_text_whatever_slides_are_called(write_tiny_slide, tmp_path):
    slide = write_tiny_slide(tmp_path / "<b>&.tif")
    found = wv.embed(slide, **SETTINGS)
    outcomes = wv.extract(slide, out=tmp_path / "out", **SETTINGS)
    stored = wv.open_features(str(tmp_path / "out" / "<b>&.zarr"))
    for shown in (found, outcomes, stored):
        assert "<b>" not in shown._repr_html_()
        assert "&lt;b&gt;&amp;" in shown._repr_html_()


def test_help_and_completion_list_the_settings_of_the_model():
    for function, absent in (
        (wv.embed, {"workers", "scheduler", "shard", "ids_from_path", "slides"}),
        (wv.extract, set()),
    ):
        shown = inspect.signature(function).parameters
        assert set(ExtractConfig.model_fields) - set(shown) == absent
        assert shown["patch_px"].default == 256
        assert shown["patch_px"].kind is inspect.Parameter.KEYWORD_ONLY


def test_a_missing_resolution_is_never_guessed(slide, write_tiny_slide, tmp_path):
    bare = tmp_path / "bare.tif"
    tifffile.imwrite(bare, np.zeros((512, 512, 3), np.uint8), tile=(64, 64), photometric="rgb", metadata=None)
    with pytest.raises(MissingMppError, match="mpp"):
        wv.embed(bare, **SETTINGS)
    assert wv.embed(bare, mpp_override=0.5, **SETTINGS).mpp == 0.5
