"""The kinds of values that settings have, each with its check: names of tables, paths, devices, resolutions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from wsi_vmamba.config.marks import Placeholder
from wsi_vmamba.config.shard import parse_shard
from wsi_vmamba.device import check_device
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.home import expand_home
from wsi_vmamba.registry import table


@dataclass(frozen=True)
class Choices:
    """The names that a field may have: those of tables of extension points, and some of its own."""

    kinds: tuple[str, ...]
    also: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Have pydantic check the name, whatever the type of the field says further."""
        return no_info_before_validator_function(self.check, handler(source))

    def names(self) -> tuple[str, ...]:
        """All of them, as they are in the tables now, and how those look that no table can list."""
        return tuple(
            dict.fromkeys((*(name for kind in self.kinds for name in table(kind).choices()), *self.also))
        )

    def check(self, name: object) -> object:
        """Refuse a name that is in no table, so that a typo fails before any work."""
        if not isinstance(name, str) or name in self.also:
            return name
        found = next((one for one in map(table, self.kinds) if name in one), None)
        if found is None:
            raise UnknownNameError(self.kinds[0], name, self.names())
        return found.check(name)


def _checked(check: Callable[[str], object]) -> BeforeValidator:
    """A validator that has text checked and leaves it as it is; what is no text the type refuses."""

    def validate(value: object) -> object:
        if isinstance(value, str):
            check(value)
        return value

    return BeforeValidator(validate)


def _check_address(text: str) -> None:
    if not re.fullmatch(r"(tcp|tls|ws|wss)://[^\s/]+:\d{1,5}/?", text):
        raise UsageError(f"a Dask scheduler's address is like tcp://host:8786, got {text!r}")


Reader = Annotated[str, Choices(("reader",))]
Segmenter = Annotated[str, Choices(("segmenter",))]
Backbone = Annotated[str, Choices(("backbone",))]
Aggregator = Annotated[str, Choices(("aggregator",))]
Supervision = Annotated[str, Choices(("supervision",))]
Dataset = Annotated[str, Choices(("dataset",))]
#: A slide-level metric, of two classes or more, or a lesion-level one, or all of them.
Metric = Annotated[str, Choices(("metric", "class metric", "lesion metric"), also=("all",))]
Classifier = Annotated[str, Choices(("classifier",))]
PublicDataset = Annotated[str, Choices(("public data set",))]
Exporter = Annotated[str, Choices(("exporter",))]
SomeObjective = Annotated[str, Choices(("objective",))]
Analysis = Annotated[str, Choices(("analysis",))]
HeatmapLayer = Annotated[str, Choices(("heatmap layer",))]
HeatmapFormat = Annotated[str, Choices(("heatmap format",))]

Mpp = Annotated[float, Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _pixels_or_whole(value: object) -> object:
    if value == "whole":
        return value
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 64 <= number <= 1_000_000:
        raise ValueError("expected a number of pixels from 64 to 1,000,000, or whole")
    return number


#: Longest side of a region; "whole" takes all tissue of a slide as one.
RegionPx = Annotated[
    Literal["whole"] | int, BeforeValidator(_pixels_or_whole), Placeholder("[PIXELS|whole]", ("whole",))
]
Seed = Annotated[int, Field(ge=0)]
#: The text of a path (or of a URL, a run's or a table's place), with the home folder in place of a tilde at its head.
PathText = Annotated[
    str,
    BeforeValidator(lambda value: expand_home(value) if isinstance(value, str) else value),
    Placeholder("PATH"),
]
Device = Annotated[
    str, _checked(check_device), Placeholder("[auto|cpu|cuda|cuda:N]", ("auto", "cpu", "cuda"))
]
AnyPrecision = Literal["auto", "fp32", "bf16"]
Shard = Annotated[str, _checked(parse_shard), Placeholder("I/N")]
Address = Annotated[str, _checked(_check_address), Placeholder("ADDRESS")]

#: Where a backbone is named nowhere.
DEFAULT_BACKBONE = "vmamba_pico"
#: Weights that are shipped with the backbone.
SHIPPED_WEIGHTS = "auto"
#: Where `extract` writes feature files and `train` looks for them; where `train` writes runs and `evaluate` looks.
FEATURES, RUNS = "features", "runs"
#: Micrometres per pixel that the backbone sees.
TARGET_MPP = 0.5
