"""Names of timm's encoders: ``timm:NAME`` or ``hf-hub:ORG/NAME``, ``:TOKENS`` and ``:PXpx`` behind. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal, cast, get_args

from wsi_vmamba.errors import UsageError

#: What of a transformer's tokens makes the feature of a window; register tokens never do.
Tokens = Literal["class", "mean", "class+mean"]
TIMM, HUB = "timm:", "hf-hub:"
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*(@[\w.\-/]+)?")
_SIZE = re.compile(r"([1-9]\d{1,3})px")


class Given(Enum):
    """Weights that are no file of the user's."""

    BY_TIMM = "those that timm finds: in the cache of the hub, or downloaded"


@dataclass(frozen=True, kw_only=True)
class WindowName:
    """A name, taken apart.

    Attributes:
        text: as it was given.
        model: what `timm.create_model` is asked for.
        repository: on the hub, without a revision; None of a name of timm's own.
        tokens: what is taken of a transformer's tokens; None leaves it to the model.
        input_px: side of what the model sees; None leaves it to the model.
    """

    text: str
    model: str
    repository: str | None
    tokens: Tokens | None
    input_px: int | None


def is_window_name(name: str) -> bool:
    """Whether a name begins as these do."""
    return name.startswith((TIMM, HUB))


def parse_window_name(name: str) -> WindowName:
    """Take a name apart.

    Raises:
        UsageError: it is of another form.
    """
    prefix = next((one for one in (TIMM, HUB) if name.startswith(one)), None)
    if prefix is None:
        raise UsageError(f"expected {TIMM}NAME or {HUB}ORG/NAME, got {name!r}")
    model, *behind = name.removeprefix(prefix).split(":")
    if not (_NAME if prefix == TIMM else _REPOSITORY).fullmatch(model):
        form = "a model of timm, as in timm:resnet50.a1_in1k" if prefix == TIMM else (
            "a repository of the hub, as in hf-hub:MahmoodLab/UNI2-h or hf-hub:ORG/NAME@REVISION"
        )  # fmt: skip
        raise UsageError(f"backbone {name!r}: expected {form}")
    tokens, input_px = _read_behind(name, behind)
    return WindowName(
        text=name,
        model=model if prefix == TIMM else f"{HUB}{model}",
        repository=None if prefix == TIMM else model.partition("@")[0],
        tokens=tokens,
        input_px=input_px,
    )


def check_window_name(name: str) -> None:
    """See `parse_window_name`."""
    parse_window_name(name)


def _read_behind(name: str, words: list[str]) -> tuple[Tokens | None, int | None]:
    """What is said behind the model: tokens, then size, each once, so that an encoder has one name."""
    left = list(words)
    tokens = cast(Tokens, left.pop(0)) if left and left[0] in get_args(Tokens) else None
    size = _SIZE.fullmatch(left[0]) if left else None
    if size is not None:
        left.pop(0)
    if left:
        raise UsageError(
            f"backbone {name!r}: {':'.join(left)!r} is not understood; behind the model may stand "
            f"{', '.join(f':{word}' for word in get_args(Tokens))} (what is taken of its tokens), then a size such "
            "as :224px"
        )
    return tokens, None if size is None else int(size[1])
