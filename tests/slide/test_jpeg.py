"""JPEG tiles: damage is an error, and the colours are what the TIFF says they are."""

from __future__ import annotations

import random

import cv2
import imagecodecs
import numpy as np
import pytest

from wsi_vmamba.slide.jpeg import Colours, DamagedTileError, decode_jpeg, jpeg_size

ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 240, (256, 256, 3)).astype(np.float32)
    pink = np.array([200, 120, 170])
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2) + pink, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, colours: str) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, level=85, colorspace="RGB", outcolorspace=colours)


@pytest.mark.parametrize("filling", ["zeros", "noise"])
def test_a_rotten_sector_inside_a_tile_never_passes_for_pixels(tissue, filling: str):
    data = encode(tissue, "YCBCR")
    generator = random.Random(0)
    silent = 0
    for _ in range(100):
        start = generator.randrange(700, len(data) - 600)
        rotten = bytearray(data)
        rotten[start : start + 512] = bytes(512) if filling == "zeros" else generator.randbytes(512)
        try:
            decode_jpeg(bytes(rotten), tables=None, stored=Colours.YCBCR)
            silent += 1
        except DamagedTileError:
            pass
    assert silent == 0  # libjpeg decodes all hundred


@pytest.mark.parametrize("claim", ["nothing", "right", "wrong", "jfif"])
@pytest.mark.parametrize("stored", [Colours.RGB, Colours.YCBCR])
def test_what_the_tiff_says_wins_over_the_markers(tissue, claim: str, stored: Colours):
    data = encode(tissue, stored.name)
    marks = [b"\xff\xe0\0\x10JFIF\0", b"\xff\xee\0\x0eAdobe"]
    for mark in marks:  # what the encoder wrote by itself
        while (at := data.find(mark)) > 0:
            data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    right = 0 if stored is Colours.RGB else 1
    more = {
        "nothing": b"",
        "right": ADOBE + bytes([right]),
        "wrong": ADOBE + bytes([1 - right]),
        "jfif": b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0",
    }[claim]
    pixels = decode_jpeg(data[:2] + more + data[2:], tables=None, stored=stored)
    expected = imagecodecs.jpeg8_decode(data, colorspace=stored.name, outcolorspace="RGB")
    np.testing.assert_array_equal(pixels, expected)
    assert np.abs(pixels.astype(int) - tissue).mean() < 12


def test_filling_before_the_end_mark_is_no_damage_and_anything_else_there_is(tissue):
    data = encode(tissue, "YCBCR")
    sound = decode_jpeg(data, tables=None, stored=Colours.YCBCR)
    padded = data[:-2] + bytes(8) + data[-2:]
    np.testing.assert_array_equal(decode_jpeg(padded, tables=None, stored=Colours.YCBCR), sound)
    with pytest.raises(DamagedTileError, match="extraneous bytes"):
        decode_jpeg(data[:-2] + b"\x12" * 16 + data[-2:], tables=None, stored=Colours.YCBCR)


def test_a_blank_tile_may_be_all_zeros():
    """With tables made for the picture, as `optimize` gives, a white tile is hardly anything else."""
    white = np.full((2048, 2048, 3), 255, dtype=np.uint8)
    data = imagecodecs.jpeg8_encode(white, level=85, optimize=True)
    assert bytes(64) in data
    np.testing.assert_array_equal(decode_jpeg(data, tables=None, stored=Colours.YCBCR), white)


def test_thousands_of_scans_are_refused_before_decoding(tissue):
    data = encode(tissue, "YCBCR")
    with pytest.raises(DamagedTileError, match="more than 100 scans"):
        decode_jpeg(data[:-2] + b"\xff\xda" * 200 + data[-2:], tables=None, stored=Colours.YCBCR)


def test_the_size_is_that_of_the_one_frame(tissue):
    data = encode(tissue[:100, :200], "YCBCR")
    assert jpeg_size(data) == (200, 100, 3)
    frame = data.find(b"\xff\xc0")
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4])
    for copies, found in ((0, "no"), (2, "2")):
        other = data[:frame] + data[frame : frame + length] * copies + data[frame + length :]
        with pytest.raises(DamagedTileError, match=f"with {found} frame headers"):
            jpeg_size(other)
