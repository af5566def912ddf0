"""What may have gone wrong with the extraction of a slide, the gravest first, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.extraction.outcomes import ALREADY_DONE, DONE, NO_TISSUE
from wsi_vmamba.html_report.extracted import Extracted
from wsi_vmamba.prediction.likeness import FEWEST_SLIDES, leave_one_out

#: As in `prediction.likeness`: a slide whose resolution differs by more came from another scanner.
_MPP_RATIO = 1.1
#: A slide with fewer patches than this share of the median one is looked at.
_FEW_PATCHES = 0.1
#: So is one that patches cover nearly whole, or hardly at all: a mask that took glass for tissue, or missed it.
_MOST_COVERED, _LEAST_COVERED = 0.9, 0.005
#: A distance is odd from so many robust standard deviations above the median.
_ODD_DISTANCE = 5.0
_TO_SD = 1.4826
#: How `slide.resolution` names what the user gave; where more than this share of the slides have it, it is no news.
_GIVEN, _USUAL = "override", 0.5
#: A slide that took so many times the median time for a patch.
_SLOW = 5.0


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """One thing that may be wrong.

    Attributes:
        weight: how grave, 0 to 100; from 80 on the slide has no features that can be used.
        what: in a few words.
        remedy: what to do.
    """

    weight: int
    what: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """What is usual among the slides.

    Attributes:
        patches: median.
        mpp: median.
        seconds: median time of a patch.
        settings: what most features were made with.
        given_mpp: share of the slides whose resolution was given by hand.
        distances: slide_id -> distance of its mean feature from the others; empty where they are too few.
        limit: from which distance on a slide is odd.
    """

    patches: float
    mpp: float
    seconds: float
    settings: str
    given_mpp: float
    distances: dict[str, float]
    limit: float

    @classmethod
    def of(cls, slides: list[Extracted]) -> Cohort:
        """Look at all slides that have features."""
        whole = [one for one in slides if one.settings]
        kinds = [one.settings for one in whole]
        settings = max(sorted(set(kinds)), key=kinds.count, default="")
        distances, limit = _distances([one for one in whole if one.settings == settings])
        paces = [one.seconds / one.patches for one in whole if one.seconds > 0 and one.patches]
        return cls(
            patches=_median([one.patches for one in whole]), mpp=_median([one.mpp for one in whole if one.mpp]),
            seconds=_median(paces), settings=settings,
            given_mpp=sum(one.mpp_source == _GIVEN for one in whole) / max(len(whole), 1), distances=distances,
            limit=limit,
        )  # fmt: skip


def _median(values: list[float] | list[int]) -> float:
    return float(np.median(values)) if values else 0.0


def _distances(slides: list[Extracted]) -> tuple[dict[str, float], float]:
    """Each slide against the others, as `prediction.likeness` measures, and what is odd among them."""
    slides = [one for one in slides if one.mean is not None]
    means = [one.mean for one in slides if one.mean is not None]
    if len(means) < FEWEST_SLIDES:
        return {}, float("inf")
    found: NDArray[np.float64] = leave_one_out(np.stack(means))
    middle = float(np.median(found))
    spread = _TO_SD * float(np.median(np.abs(found - middle)))
    names = [one.slide_id for one in slides]
    return dict(zip(names, found.tolist(), strict=True)), middle + _ODD_DISTANCE * max(spread, 0.05 * middle)


def suspicions_of(slide: Extracted, cohort: Cohort) -> list[Suspicion]:
    """All that may be wrong with a slide, the gravest first."""
    found = [check(slide, cohort) for check in CHECKS]
    return sorted((one for one in found if one is not None), key=lambda one: -one.weight)


def _failed(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    del cohort
    if slide.outcome in {DONE, ALREADY_DONE, ""}:
        return None
    weight = 90 if slide.outcome == NO_TISSUE else 100
    return Suspicion(weight=weight, what=f"{slide.outcome}: {slide.detail}" if slide.detail else slide.outcome,
                     remedy=slide.remedy)  # fmt: skip


def _unreadable(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    del cohort
    if not slide.problem:
        return None
    return Suspicion(weight=95, what=slide.problem, remedy="extract it again with --overwrite")


def _vanished(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    del cohort
    if slide.outcome not in {DONE, ALREADY_DONE} or slide.settings or slide.problem:
        return None
    return Suspicion(
        weight=92, what="its features were made and are not there any more", remedy="extract it again"
    )


def _gaps(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    del cohort
    if not slide.left_out:
        return None
    share = slide.left_out / max(slide.left_out + slide.patches, 1)
    what = f"{slide.left_out} patches left out ({share:.0%})" + (
        f", {slide.tiles} damaged tiles" if slide.tiles else ""
    )
    return Suspicion(
        weight=60 + round(19 * share), what=what, remedy="copy the slide again, then --overwrite"
    )


def _other_settings(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    if not slide.settings or slide.settings == cohort.settings:
        return None
    return Suspicion(
        weight=75,
        what=f"other settings than most: {slide.settings}",
        remedy="extract all slides with the same settings",
    )


def _odd_mpp(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    if not slide.mpp or not cohort.mpp:
        return None
    ratio = max(slide.mpp / cohort.mpp, cohort.mpp / slide.mpp)
    if ratio <= _MPP_RATIO:
        return None
    return Suspicion(
        weight=min(70, 45 + round(10 * ratio)),
        what=f"{slide.mpp:.4g} um per pixel ({slide.mpp_source}), most have {cohort.mpp:.4g}",
        remedy="another scanner, or a wrong record: compare a nucleus with that of other slides, else --mpp-override",
    )


def _unlike(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    distance = cohort.distances.get(slide.slide_id)
    if distance is None or distance <= cohort.limit:
        return None
    return Suspicion(
        weight=55, what=f"features unlike the others (distance {distance:.2f}, usual up to {cohort.limit:.2f})",
        remedy="look at it: another stain, pen, fold, blur or organ",
    )  # fmt: skip


def _few(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    if not slide.settings or slide.patches >= _FEW_PATCHES * cohort.patches:
        return None
    return Suspicion(
        weight=50, what=f"{slide.patches} patches, the median slide has {cohort.patches:.0f}",
        remedy="look at its mask: was tissue missed?",
    )  # fmt: skip


def _cover(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    del cohort
    if slide.covered is None or _LEAST_COVERED <= slide.covered <= _MOST_COVERED:
        return None
    what = "nearly all of the slide" if slide.covered > _MOST_COVERED else "hardly any of the slide"
    return Suspicion(
        weight=35,
        what=f"patches cover {what} ({slide.covered:.1%})",
        remedy="look at its mask: is it tissue?",
    )


def _given_mpp(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    if slide.mpp_source != _GIVEN or cohort.given_mpp > _USUAL:
        return None
    return Suspicion(weight=10, what=f"its {slide.mpp:.4g} um per pixel were given by hand")


def _slow(slide: Extracted, cohort: Cohort) -> Suspicion | None:
    if not slide.patches or not cohort.seconds or slide.seconds / slide.patches <= _SLOW * cohort.seconds:
        return None
    pace = slide.seconds / slide.patches / cohort.seconds
    return Suspicion(weight=5, what=f"took {pace:.0f} times as long for a patch as most")


#: Each looks at one thing.
CHECKS: tuple[Callable[[Extracted, Cohort], Suspicion | None], ...] = (
    _failed, _unreadable, _vanished, _gaps, _other_settings, _odd_mpp, _unlike, _few, _cover, _given_mpp, _slow,
)  # fmt: skip
