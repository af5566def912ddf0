"""Which slides `heatmap` is about, and what is known of them: predictions that are there, or a run that predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsi_vmamba.config import HeatmapConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.prediction import folder
from wsi_vmamba.prediction.front import predict
from wsi_vmamba.prediction.slide_prediction import SlidePrediction, read_prediction
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.location import is_url, place_of
from wsi_vmamba.slide.same_name import near_names
from wsi_vmamba.training.folders import RECORD

#: Predictions that are named where one is missing.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One slide to draw.

    Attributes:
        name: for people.
        load: gives its prediction.
        slide: its file, where one was named.
    """

    name: str
    load: Callable[[], SlidePrediction]
    slide: str | None = None


def find_wanted(config: HeatmapConfig) -> list[Wanted]:
    """List the slides.

    Raises:
        UsageError: a run is given without slides, or a slide has no prediction.
    """
    place = Path(config.run)
    if folder.holds_predictions(place):
        return _predicted(place, config.slides)
    if place.is_dir() and not any(place.iterdir()):
        raise UsageError(f"{place.absolute()} is empty; give a folder that `train` or `predict` made")
    if not config.slides:
        if place.is_dir() and not (place / RECORD).is_file():
            raise UsageError(
                f"{place} is neither a folder of predictions nor of a run; give what `predict` left, or a run"
            )
        raise UsageError(f"{place} is no folder of predictions; give the slides that it is to predict")
    settings = {"mpp_override": config.mpp_override, "weights": config.weights, "device": config.device}
    call: Callable[..., SlidePrediction] = predict
    return [Wanted(name=slide, load=partial(call, place, slide, **settings)) for slide in config.slides]


def default_folder(config: HeatmapConfig) -> Path:
    """Where the files go: those of predictions beside them, those of a run here."""
    if config.out is not None:
        return Path(config.out)
    place = Path(config.run)
    return place / folder.HEATMAPS if folder.holds_predictions(place) else Path(folder.HEATMAPS)


def _predicted(place: Path, slides: list[str]) -> list[Wanted]:
    there = {path.stem: path for path in sorted((place / folder.PATCHES).glob("*.safetensors"))}
    if not there:
        raise UsageError(f"{place} holds no prediction yet; finish it with `wsi-vmamba predict`")
    wanted = []
    for given in slides or there:
        is_file = is_url(given) or Path(given).exists()
        name = given if given in there else str(slide_id_of(place_of(given)))
        if name not in there:
            near = near_names([name], there)
            more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
            hint = f"; but {near}" if near else f"; there are {', '.join([*there][:_NAMED])}{more}"
            raise UsageError(f"{place} has no prediction of {given}{hint}")
        wanted.append(
            Wanted(
                name=name,
                load=partial(read_prediction, there[name]),
                slide=given if is_file else None,
            )
        )
    return wanted
