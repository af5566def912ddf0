from __future__ import annotations

import math

import pytest

from wsi_vmamba.slide.lengths import LengthError, length_um, read_number, um_per_unit


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.5", 0.5),
        ("0,5020", 0.502),
        ("1,0080", 1.008),
        (" 5e-1 ", 0.5),
        ("2", 2.0),
        (".25", 0.25),
        ("-1", -1),
    ],
)
def test_numbers_with_point_or_comma(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "1.234,5", "1,234,5", "0.5 um", "abc", "1_0", "nan", "0x1"])
def test_what_is_no_number_is_none(text):
    assert read_number(text) is None


MICRO = [
    "µm",
    "μm",
    "um",
    "micrometer",
    "micrometre",
    "Micrometers",
    "micron",
    "MICRONS",
    "Âµm",
    "Î¼m",
    " µm ",
]


@pytest.mark.parametrize("unit", MICRO)
def test_spellings_of_the_micrometre(unit):
    assert length_um("0,5", unit, what="x") == 0.5


@pytest.mark.parametrize(
    ("unit", "um"),
    [("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("centimetre", 1e4), ("m", 1e6), ("inch", 25400), ("inches", 25400),
     ("in", 25400), ("Å", 1e-4), ("\N{ANGSTROM SIGN}", 1e-4), ("angstrom", 1e-4)],
)  # fmt: skip
def test_other_units(unit, um):
    assert um_per_unit(unit) == pytest.approx(um)


def test_a_megametre_is_no_millimetre_and_an_unknown_unit_is_named():
    for unit in ("Mm", "MM", "furlong"):
        assert um_per_unit(unit) is None
        with pytest.raises(
            LengthError, match=rf"the width is 0.5 '{unit}', a unit that is not known.*micrometer"
        ):
            length_um("0.5", unit, what="the width")
    with pytest.raises(LengthError, match=r"the width is 'wide', expected a number such as 0\.25"):
        length_um("wide", "um", what="the width")


@pytest.mark.parametrize(
    ("number", "unit"), [("1", "pixel"), ("1", ""), ("1", "reference frame"), ("0", "um"), ("-1", "um"),
                         ("NaN", "um"), ("Infinity", "um"), (math.nan, "um")],
)  # fmt: skip
def test_no_length_is_recorded(number, unit):
    assert length_um(number, unit, what="x") is None
