"""The configuration of each command: a pydantic model, a YAML file, and `--set key=value` on top.

Order of precedence, weakest first: defaults here, the file of `--config`, `--set`, the command's own options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wsi_vmamba.errors import ConfigError, UnknownNameError
from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.registry import table


def _known(kind: str) -> BeforeValidator:
    """Validate a name against the table of an extension point, so that a typo fails before any work."""

    def check(name: object) -> object:
        return table(kind).check(name) if isinstance(name, str) else name

    return BeforeValidator(check)


Reader = Annotated[str, _known("reader")]
Segmenter = Annotated[str, _known("segmenter")]
Backbone = Annotated[str, _known("backbone")]
Aggregator = Annotated[str, _known("aggregator")]
Dataset = Annotated[str, _known("dataset")]
Metric = Annotated[str, _known("metric")]
Mpp = Annotated[float, Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class RunConfig(BaseModel):
    """Base of all configurations: frozen, strict about types, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class ExtractConfig(RunConfig):
    """`wsi-vmamba extract`: slides to feature files."""

    slides: str = "slides"
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp."""
    out: str = "features"
    reader: Reader | None = None
    mpp_override: Mpp | None = None
    target_mpp: Mpp = 0.5
    region_px: Annotated[int, Field(ge=64, le=1_000_000)] = 10_000
    cell_px: Annotated[int, Field(ge=32, le=8192)] = 256
    min_tissue: Share = 0.1
    """Smallest share of a cell that must be tissue for the cell to be kept."""
    segmenter: Segmenter = "otsu"
    backbone: Backbone = "vmamba_pico"
    weights: str = "auto"
    """`auto` (the weights shipped with the backbone), `random`, or a file (.safetensors, .pth)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    memory_limit_gb: Annotated[float, Field(gt=0)] | None = None
    prefetch: Annotated[int, Field(ge=1, le=8)] = 1
    """Regions decoded ahead of the one being encoded."""
    overwrite: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _cells_fit(self) -> ExtractConfig:
        if self.cell_px % 32:
            raise ValueError(f"cell_px must be a multiple of 32 (the backbone's stride), got {self.cell_px}")
        if self.region_px < self.cell_px:
            raise ValueError(f"region_px ({self.region_px}) must be at least cell_px ({self.cell_px})")
        return self


class TrainConfig(RunConfig):
    """`wsi-vmamba train`: feature files and labels to a slide classifier."""

    dataset: Dataset = "camelyon16"
    manifest: str | None = None
    """CSV of slides and labels; the data set's own where it ships one."""
    features: str = "features"
    runs: str = "runs"
    name: str | None = None
    """Name of the run's folder; by default <dataset>-<aggregator>."""
    aggregator: Aggregator = "abmil"
    epochs: Annotated[int, Field(ge=1)] = 60
    patience: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    hidden_dim: Annotated[int, Field(ge=1)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    class_weights: bool = True
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    resume: bool = False
    overwrite: bool = False
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluateConfig(RunConfig):
    """`wsi-vmamba evaluate`: a trained run to metrics on its held-out slides."""

    metric: Metric = "auc"
    run: str | None = None
    """The run's folder; by default the newest under `runs`."""
    runs: str = "runs"
    features: str | None = None
    """Folder of feature files; by default the one the run was trained on."""
    split: Literal["test", "validation", "train"] = "test"
    out: str | None = None
    """Where results go; by default <run>/evaluation."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    heatmaps: Annotated[int, Field(ge=0)] = 0
    """How many attention heatmaps to draw, highest scores first."""
    seed: Annotated[int, Field(ge=0)] = 0


class DemoConfig(RunConfig):
    """`wsi-vmamba demo`: the whole product on a generated cohort."""

    out: str = "demo"
    slides: Annotated[int, Field(ge=12)] = 24
    target_mpp: Mpp = 1.0
    seed: Annotated[int, Field(ge=0)] = 0


class ShowConfig(RunConfig):
    """`wsi-vmamba show`: one feature file as facts and a picture."""

    features: str
    slide: str | None = None
    """The slide, where it no longer lies at the path that the feature file records."""
    out: str | None = None


C = TypeVar("C", bound=RunConfig)


def resolve_config(
    model: type[C],
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> C:
    """Merge defaults, a YAML file, ``key=value`` assignments and options (None = not given) into a valid config.

    Raises:
        ConfigError: an unknown key (naming the nearest), a value of the wrong type or range, or a bad file.
    """
    values = _read_yaml(file) if file else {}
    _refuse_unknown(model, values, where=str(file))
    for text in assignments:
        key, value = _parse_assignment(text)
        _refuse_unknown(model, {key: value}, where="--set")
        values[key] = value
    values.update({key: value for key, value in (options or {}).items() if value is not None})
    try:
        return model.model_validate(values)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:
        raise ConfigError(_describe(model, error)) from None


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML, every key written out, ready for `--config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected 'key: value' lines, got a {type(values).__name__}")
    return values


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set expects key=value, got {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from error


def _refuse_unknown(model: type[RunConfig], values: Mapping[str, Any], *, where: str) -> None:
    for key in values:
        if key not in model.model_fields:
            near = get_close_matches(str(key), model.model_fields, n=1, cutoff=0.4)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(model.model_fields)}"
            )
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")


def _describe(model: type[RunConfig], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {message} (got {problem['input']!r})" if key else message)
    return f"invalid configuration for {model.__name__.removesuffix('Config').lower()}: " + "; ".join(lines)
