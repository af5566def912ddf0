"""The configuration of each command: a pydantic model, a YAML file, and `--set key=value` on top.

Order of precedence, weakest first: defaults here, the file of `--config`, `--set`, the command's own options.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wsi_vmamba.errors import ConfigError, UnknownNameError, UsageError
from wsi_vmamba.geometry import MPP_RANGE
from wsi_vmamba.home import expand_home
from wsi_vmamba.registry import table
from wsi_vmamba.settings_yaml import keys_of_text, read_settings, read_value


def _known(*kinds: str, also: Sequence[str] = ()) -> BeforeValidator:
    """Validate a name against the tables of extension points, so that a typo fails before any work."""

    def check(name: object) -> object:
        choices = [*also, *(entry for kind in kinds for entry in table(kind))]
        if isinstance(name, str) and name not in choices:
            raise UnknownNameError(kinds[0], name, choices)
        return name

    return BeforeValidator(check)


Reader = Annotated[str, _known("reader")]
Segmenter = Annotated[str, _known("segmenter")]
Backbone = Annotated[str, _known("backbone")]
Aggregator = Annotated[str, _known("aggregator")]
Supervision = Annotated[str, _known("supervision")]
Dataset = Annotated[str, _known("dataset")]
#: A slide-level or a lesion-level metric, or all of them.
Metric = Annotated[str, _known("metric", "lesion metric", also=("all",))]
Classifier = Annotated[str, _known("classifier")]
PublicDataset = Annotated[str, _known("public data set")]
Exporter = Annotated[str, _known("exporter")]
Mpp = Annotated[float, Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
#: The text of a path (or of a URL, a run's or a table's place), with the home folder in place of a tilde at its head.
PathText = Annotated[
    str, BeforeValidator(lambda value: expand_home(value) if isinstance(value, str) else value)
]


def parse_shard(shard: str) -> tuple[int, int]:
    """Read "i/n" as (i, n), 1 <= i <= n.

    Raises:
        UsageError: it is not of that form.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"a shard is i/n with i from 1 to n, as in 1/8 to 8/8; got {shard!r}")
    return index, count


def _shard(value: object) -> object:
    if isinstance(value, str):
        parse_shard(value)
    return value


def _address(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"(tcp|tls|ws|wss)://[^\s/]+:\d{1,5}/?", value):
        raise UsageError(f"a Dask scheduler's address is like tcp://host:8786, got {value!r}")
    return value


class RunConfig(BaseModel):
    """Base of all configurations: frozen, strict about types, an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


class ExtractConfig(RunConfig):
    """`wsi-vmamba extract`: slides to feature files."""

    slides: PathText = "slides"
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp."""
    ids_from_path: bool = False
    """Name slides by their folders too: a__slide for a/slide.svs. By default, and in a CSV, folders do not count."""
    out: PathText = "features"
    reader: Reader | None = None
    scene: Annotated[int, Field(ge=0)] | None = None
    """Which picture of a file that holds several, as `info` numbers them; by default the one that is the slide."""
    mpp_override: Mpp | None = None
    target_mpp: Mpp = 0.5
    region_px: Annotated[int, Field(ge=64, le=1_000_000)] = 10_000
    patch_px: Annotated[int, Field(ge=32, le=8192)] = 256
    min_tissue: Share = 0.1
    """Smallest share of a patch that must be tissue for the patch to be kept."""
    segmenter: Segmenter = "otsu"
    mask: PathText | None = None
    """The user's own tissue masks, instead of a segmenter: a file, or a folder with one per slide."""
    backbone: Backbone = "vmamba_pico"
    weights: PathText = "auto"
    """`auto` (the weights shipped with the backbone), `random`, or a file (.safetensors, .pth).

    `FILE#NAME` takes one of several state dicts in it.
    """
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    memory_limit_gb: Annotated[float, Field(gt=0)] | None = None
    prefetch: Annotated[int, Field(ge=1, le=8)] = 1
    """Regions decoded ahead of the one being encoded."""
    on_bad_tile: Literal["fail", "skip"] = "fail"
    """What a tile that does not decode means: the slide fails, or the patches it touches are left out and recorded."""
    overwrite: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    shard: Annotated[str, BeforeValidator(_shard)] | None = None
    """`i/n`: only every n-th slide of the sorted list, beginning with the i-th; for job arrays."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Start so many worker processes here, each with one slide at a time and its part of the cores."""
    scheduler: Annotated[str, BeforeValidator(_address)] | None = None
    """Address of a running Dask scheduler (tcp://host:8786), whose workers take the slides."""

    @model_validator(mode="after")
    def _one_place(self) -> ExtractConfig:
        if self.workers and self.scheduler:
            raise ValueError("give workers (started here) or scheduler (running elsewhere), not both")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> ExtractConfig:
        if self.patch_px % 32:
            raise ValueError(
                f"patch_px must be a multiple of 32 (the backbone's stride), got {self.patch_px}"
            )
        if self.region_px < self.patch_px:
            raise ValueError(f"region_px ({self.region_px}) must be at least patch_px ({self.patch_px})")
        return self


class TrainConfig(RunConfig):
    """`wsi-vmamba train`: feature files and labels to a slide classifier."""

    dataset: Dataset = "camelyon16"
    manifest: PathText | None = None
    """CSV of slides and labels; the data set's own where it ships one."""
    features: PathText = "features"
    runs: PathText = "runs"
    name: str | None = None
    """Name of the run's folder; by default <dataset>-<aggregator>."""
    aggregator: Aggregator | None = None
    """By default abmil; none with `supervision: dense`."""
    classifier: Classifier = "random_forest"
    """What takes the aggregator's place where slides are rows of numbers (`--dataset csv_features`)."""
    supervision: Supervision = "slide"
    """Labels of slides, outlines of tumour (dense), or both."""
    annotations: PathText | None = None
    """Folder of outlines <slide_id>.xml or .geojson; by default the manifest's column `annotation`."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validation: one run per fold, under <name>/fold-1 and so on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; `auto` is bf16 on a GPU and fp32 on a CPU."""
    epochs: Annotated[int, Field(ge=1)] = 60
    patience: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    hidden_dim: Annotated[int, Field(ge=1)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Running average of the weights that is validated and kept; 0 keeps the weights themselves."""
    class_weights: bool = True
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    resume: bool = False
    overwrite: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainConfig:
        if self.aggregator is not None and not table("supervision").resolve(self.supervision).slides:
            raise ValueError(
                f"supervision {self.supervision} trains no aggregator, got {self.aggregator}; leave it out, or use "
                "supervision both"
            )
        return self


class EvaluateConfig(RunConfig):
    """`wsi-vmamba evaluate`: a trained run, or scores and detections from elsewhere, to metrics."""

    metric: Metric = "auc"
    run: PathText | None = None
    """The run's folder; by default the newest under `runs`."""
    runs: PathText = "runs"
    features: PathText | None = None
    """Folder of feature files; by default the one the run was trained on."""
    split: Literal["test", "validation", "train"] = "test"
    scores: PathText | None = None
    """CSV of slide scores, one line a slide, in place of a run."""
    score_column: str | None = None
    label_column: str = "label"
    positive: str | None = None
    """Name of the positive class where labels are names."""
    threshold: float | None = None
    """Score from which a slide is called, chosen elsewhere; of a run it is chosen on its validation slides."""
    masks: PathText | None = None
    """Folder of level-5 tumour masks (`<slide>.png` or `.tif`), for FROC."""
    annotations: PathText | None = None
    """Folder of outlines (`<slide>.xml` or `.geojson`) to draw the masks of a run's slides from."""
    detections: PathText | None = None
    """Folder of `<slide>.csv` with probability,x,y at level 0, in place of a run."""
    exclude: list[str] = []
    """Slides left out of FROC; for a data set that names such slides they are left out anyway."""
    merge_um: Annotated[float, Field(gt=0)] = 150.0
    """Of a run's patches closer than this, only the one with the highest probability is a detection."""
    compare: Annotated[list[PathText], Field(min_length=2, max_length=2)] | None = None
    """Two runs, two CSVs of scores (FILE or FILE:COLUMN), or two columns of `scores`."""
    out: PathText | None = None
    """Where tables and figures go; of a run <run>/evaluation, of anything else nowhere unless given."""
    json_out: PathText | None = None
    """File for the metrics alone, as JSON."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    heatmaps: Annotated[int, Field(ge=0)] = 0
    """How many attention heatmaps to draw, highest scores first."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _belongs_together(self) -> EvaluateConfig:
        if self.scores and not self.score_column and not self.compare:
            raise ValueError("scores need --score-column NAME, the column that holds them")
        if self.score_column and not self.scores and not self.compare:
            raise ValueError("--score-column names a column of --scores FILE, which is missing")
        if self.detections and not self.masks:
            raise ValueError("detections need --masks DIR, the level-5 masks of the tumour slides")
        if self.run and (self.scores or self.detections):
            raise ValueError("--run is judged by its own scores; leave out --scores and --detections")
        if self.masks and self.annotations:
            raise ValueError("give --masks or --annotations, not both")
        return self


class FinetuneConfig(RunConfig):
    """`wsi-vmamba finetune`: labelled tiles to weights of a backbone."""

    tiles: PathText = "tiles"
    """A folder with train/<class>/ and validation/<class>/ full of pictures of one size."""
    backbone: Backbone = "vmamba_pico"
    weights: PathText = "auto"
    """Where to start: `auto` (shipped with the backbone), `random`, or a file."""
    out: PathText = "finetuned"
    epochs: Annotated[int, Field(ge=1)] = 10
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    batch: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Of the new head; the n-th block below it learns at `layer_decay` to the power of n of that."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    overwrite: bool = False
    seed: Annotated[int, Field(ge=0)] = 0


class DownloadConfig(RunConfig):
    """`wsi-vmamba download`: the files of a public data set to a folder."""

    dataset: PublicDataset
    to: PathText
    slides: list[str] = []
    """Names or patterns (`test_*`); none for all."""
    annotations: bool = True
    workers: Annotated[int, Field(ge=1, le=32)] = 4
    """Files fetched at the same time."""
    endpoint_url: str | None = None
    """Another S3 server that holds the bucket; by default Amazon's."""


class CheckConfig(RunConfig):
    """`wsi-vmamba check`: whether a data set is complete and sound in a folder."""

    dataset: PublicDataset
    folder: PathText
    slides: list[str] = []
    checksums: bool = False
    """Also hash every file whose checksum is known."""
    json_out: PathText | None = None


class ExportConfig(RunConfig):
    """`wsi-vmamba export`: feature files to the layout of another tool."""

    features: PathText = "features"
    """Folder of feature files, or one of them."""
    format: Exporter = "trident"
    out: PathText | None = None
    """Where the files go; by default export/<format>."""
    run: PathText | None = None
    """Folder of a trained run whose probability and attention are added, in formats that have room for them."""
    overwrite: bool = False


class DemoConfig(RunConfig):
    """`wsi-vmamba demo`: the whole product on a generated cohort."""

    out: PathText = "demo"
    slides: Annotated[int, Field(ge=12)] = 24
    target_mpp: Mpp = 1.0
    seed: Annotated[int, Field(ge=0)] = 0


class ShowConfig(RunConfig):
    """`wsi-vmamba show`: one feature file as facts and a picture."""

    features: PathText
    slide: PathText | None = None
    """The slide, where it no longer lies at the path that the feature file records."""
    out: PathText | None = None


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
    text_keys = keys_of_text({key: field.annotation for key, field in model.model_fields.items()})
    values = read_settings(Path(expand_home(str(file))), text_keys=text_keys) if file else {}
    _refuse_unknown(model, values, where=str(file))
    for text in assignments:
        key, value = _parse_assignment(text, text_keys=text_keys)
        _refuse_unknown(model, {key: value}, where="--set")
        values[key] = value
    values.update({key: value for key, value in (options or {}).items() if value is not None})
    try:
        return model.model_validate(values)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:
        raise ConfigError(_describe(model, error)) from None


def keyword_config(model: type[C], settings: Mapping[str, Any]) -> C:
    """The configuration of keyword arguments, with the errors of a file's or of ``--set``; None = not given.

    Raises:
        ConfigError: an unknown name (naming the nearest), or a value of the wrong type or range.
    """
    _refuse_unknown(model, settings, where="keyword argument")
    values = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()
    }
    return resolve_config(model, options=values)


def keyword_signature(
    model: type[RunConfig], first: Sequence[inspect.Parameter], *, leave_out: Collection[str] = ()
) -> inspect.Signature:
    """The signature of a function that takes a model's settings by name, for `help` and completion in notebooks."""
    named = {parameter.name for parameter in first}
    settings = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=field.annotation
        )
        for name, field in model.model_fields.items()
        if name not in named and name not in leave_out
    ]
    return inspect.Signature([*first, *settings])


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML, every key written out, ready for `--config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _parse_assignment(text: str, *, text_keys: Collection[str]) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set expects key=value, got {text!r}")
    try:
        return key, read_value(value, is_text=key in text_keys)
    except ConfigError as error:
        raise ConfigError(f"--set {text}: {error}") from error


#: Keys of before the first release, and what they are called now.
_RENAMED = {"cell_px": "patch_px"}


def _refuse_unknown(model: type[RunConfig], values: Mapping[str, Any], *, where: str) -> None:
    for key in values:
        if key in _RENAMED:
            raise ConfigError(
                f"{where}: {key!r} is called {_RENAMED[key]!r} now; cells of a slide are patches"
            )
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
        got = repr(problem["input"])
        if problem["input"] is None:
            got += ", which is how YAML reads ~ and nothing at all"
        lines.append(f"{key}: {message} (got {got})" if key else message)
    return f"invalid configuration for {model.__name__.removesuffix('Config').lower()}: " + "; ".join(lines)
