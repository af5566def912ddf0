"""How an encoder is named to `probe`: ``NAME``, ``NAME=WEIGHTS``, ``FILE.py:FUNCTION``, each with ``@PX`` behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.home import expand_home
from wsi_vmamba.registry import table

#: Tables in which the name of an encoder may stand.
KINDS = ("backbone", "tile encoder")
#: The weights of a backbone where none are named, as in `extract`.
AUTO = "auto"
_RESIZED = re.compile(r"(?P<rest>.+)@(?P<px>\d+)")
#: A Python file or a dotted module, and what of it maps tiles to features.
_OWN = re.compile(r"(?P<module>.+\.py|[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_][\w.]*)")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder as a user names it.

    Attributes:
        text: as it was given.
        name: in one of the tables, or "MODULE:ATTRIBUTE" of a user's own.
        weights: auto, random or a file; of a backbone only.
        resize_px: shorter side that tiles are resized to for this encoder; None leaves them.
        is_own: whether it is a user's own function.
    """

    text: str
    name: str
    weights: str
    resize_px: int | None
    is_own: bool


def parse_encoder(text: str) -> EncoderSpec:
    """Read the name of an encoder.

    Raises:
        UsageError: it is none of the forms, or weights are given to what has none.
        UnknownNameError: the name is in no table; the nearest is named.
    """
    rest, resize_px = text.strip(), None
    if match := _RESIZED.fullmatch(rest):
        rest, resize_px = match["rest"], int(match["px"])
        if resize_px < 1:
            raise UsageError(f"encoder {text!r}: @PX is the shorter side of the tiles in pixels, at least 1")
    name, equals, weights = rest.partition("=")
    # A name such as timm:resnet50 looks like a function of a module too.
    if not equals and rest not in table("backbone") and _OWN.fullmatch(rest):
        return EncoderSpec(text=text, name=expand_home(rest), weights="", resize_px=resize_px, is_own=True)
    if equals and not weights:
        raise UsageError(f"encoder {text!r}: weights are missing behind '='; auto, random or a file")
    found = next((one for one in map(table, KINDS) if name in one), None)
    if found is None:
        choices = [choice for kind in KINDS for choice in table(kind).choices()]
        raise UnknownNameError("encoder", name, [*choices, "FILE.py:FUNCTION"])
    found.check(name)
    is_backbone = name in table("backbone")
    if equals and not is_backbone:
        raise UsageError(f"encoder {name!r} has no weights; leave {equals}{weights} out")
    return EncoderSpec(
        text=text,
        name=name,
        # The shell leaves a tilde behind the equals sign alone.
        weights=expand_home(weights) or (AUTO if is_backbone else ""),
        resize_px=resize_px,
        is_own=False,
    )
