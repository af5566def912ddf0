"""Numbers and units of length as files spell them: one table for every format."""

from __future__ import annotations

import math
import re
import unicodedata

#: Micrometres per unit. Symbols keep their case, since Mm and mm are two units; names do not.
_SYMBOLS = {
    "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6,
    "in": 25_400.0,
}  # fmt: skip
_NAMES = {
    "picometer": 1e-6, "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "micron": 1.0, "millimeter": 1e3,
    "centimeter": 1e4, "decimeter": 1e5, "meter": 1e6, "inch": 25_400.0, "inches": 25_400.0,
}  # fmt: skip
#: What stands in the place of a unit where there is no length: the picture is not calibrated.
_NO_LENGTH = frozenset({"", "pixel", "pixels", "px", "reference frame", "none", "null"})
#: The micro sign and the Greek letter in UTF-8, read as if they were Windows' Latin.
_MOJIBAKE = re.compile("Âµ|Î¼")
#: What may follow a unit where the length is of one pixel.
_PER_PIXEL = re.compile(r"\s*(/|\bper\b)\s*(px|pixel)\s*$", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


class LengthError(ValueError):
    """A length whose number or unit cannot be read; the message names it."""


def read_number(text: str) -> float | None:
    """Read a number with a decimal point or, as some countries' software writes, a decimal comma; None if it is none.

    A comma never separates thousands here: a length with a comma and a point is no number.
    """
    text = text.strip()
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None


def um_per_unit(unit: str) -> float | None:
    """Micrometres in a unit of length, whatever its spelling; None where it is not known."""
    plain = unicodedata.normalize("NFKC", _MOJIBAKE.sub("μ", unit).strip())
    if plain in _SYMBOLS:
        return _SYMBOLS[plain]
    name = plain.casefold().replace("metre", "meter")
    return _NAMES.get(name, _NAMES.get(name.removesuffix("s")))


def text_um(text: str, unit: str, *, what: str) -> float | None:
    """Micrometres of a recorded length, as `length_um`, whose text may name another unit behind the number.

    Args:
        text: as the file has it, such as ``0.25``, ``0,25 um`` or ``250 nm/pixel``.
        unit: that of a number alone.
        what: the name of the field, for messages.

    Raises:
        LengthError: the number is none, or the unit is not known.
    """
    found = _NUMBER.match(text.strip())
    rest = text.strip()[found.end() :] if found else ""
    if not found or (not rest[:1].isspace() and not rest[:1].isalpha()):
        return length_um(text, unit, what=what)
    named = _PER_PIXEL.sub("", rest).strip()
    if um_per_unit(named) is None and named.casefold() not in _NO_LENGTH:
        raise LengthError(
            f"{what} is {text!r}, expected a number such as 0.25, with a unit of length or without"
        )
    return length_um(found[0], named, what=what)


def length_um(number: str | float, unit: str, *, what: str) -> float | None:
    """Micrometres of a recorded length; None where it says that there is none: no unit, pixels, zero.

    Args:
        number: as the file has it.
        unit: as the file has it.
        what: the name of the field, for messages.

    Raises:
        LengthError: the number is none, or the unit is not known.
    """
    if unit.strip().casefold() in _NO_LENGTH:
        return None
    value = read_number(number) if isinstance(number, str) else float(number)
    if value is None:
        if isinstance(number, str) and number.strip().casefold() in {"nan", "inf", "infinity", "-inf", ""}:
            return None
        raise LengthError(f"{what} is {number!r}, expected a number such as 0.25")
    factor = um_per_unit(unit)
    if factor is None:
        raise LengthError(
            f"{what} is {number} {unit!r}, a unit that is not known; expected one of "
            f"{', '.join([*_SYMBOLS, *_NAMES])}"
        )
    um = value * factor
    return um if 0 < um < math.inf else None
