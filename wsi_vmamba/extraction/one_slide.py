"""One slide from its file to its feature file; here a slide's error becomes an outcome, so that the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder, facts_of
from wsi_vmamba.errors import (
    ClaimedError,
    IncompatibleStoreError,
    SlideError,
    UsageError,
    WsiVmambaError,
)
from wsi_vmamba.extraction.damage import count_damage
from wsi_vmamba.extraction.encoding import Job, encode_slide
from wsi_vmamba.extraction.in_scratch import forget_scratch, place_of_scratch
from wsi_vmamba.extraction.kept import remove_spent
from wsi_vmamba.extraction.outcomes import ALREADY_DONE, CLAIMED, Outcome, failure, unforeseen
from wsi_vmamba.extraction.planning import plan_slide, plan_without_regions
from wsi_vmamba.extraction.sources import SlideSource, refuse_namesake, refuse_unusable, require_there
from wsi_vmamba.extraction.stain import stain_of
from wsi_vmamba.extraction.tissue_files import read_source, save_tissue, segmenter_numbers
from wsi_vmamba.extraction.tracebacks import forget_traceback, keep_traceback
from wsi_vmamba.progress import News, ignore
from wsi_vmamba.provenance import package_versions
from wsi_vmamba.regions import RegionPlan, require_tissue
from wsi_vmamba.slide import ResolvedMpp, Slide, open_slide, resolve_mpp
from wsi_vmamba.slide.focal import FocalStack, open_focal_stack
from wsi_vmamba.slide.location import absolute
from wsi_vmamba.slide.resolution import mpp_note
from wsi_vmamba.slide.scenes import scene_note, scene_of
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.store import (
    FeatureMeta,
    check_compatible,
    is_complete,
    open_features,
    require_short_name,
    take_claim,
)
from wsi_vmamba.tissue import TissueMask

#: What ends a slide now and then: its file, the disk of its features, its size. It needs no traceback.
_FAULTS = (SlideError, OSError, MemoryError, WsiVmambaError)


def extract_slide(
    config: ExtractConfig,
    source: SlideSource,
    encoder: Encoder,
    *,
    started_mtime: float = 0.0,
    report: Callable[[News], None] = ignore,
) -> Outcome:
    """Extract one slide; whatever ends it is its outcome.

    Where another run is processing the slide the outcome is `CLAIMED`: call again later.

    Args:
        config: of the run.
        source: the slide.
        encoder: what encodes; built by `load_encoder` from the same configuration.
        started_mtime: with ``overwrite``, feature files made after this time (see `begin_run`) are kept: they are new.
        report: takes news of the progress, from this thread.
    """
    started = time.perf_counter()
    try:
        made = make_features(config, source, encoder, started_mtime=started_mtime, report=report)
        detail = "; ".join(filter(None, [made.outcome.detail, *made.notes]))
        outcome = replace(made.outcome, detail=detail)
        forget_traceback(Path(config.out), source.slide_id)
    except ClaimedError as error:
        outcome = Outcome(
            slide_id=source.slide_id, outcome=CLAIMED, detail=f"being processed by {error.owner}"
        )
    except _FAULTS as error:
        outcome = failure(source.slide_id, error)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is this slide's: the others go on
        kept = keep_traceback(Path(config.out), source.slide_id, error)
        outcome = unforeseen(source.slide_id, error, kept=kept)
    return replace(outcome, seconds=round(time.perf_counter() - started, 3))


@dataclass(frozen=True, kw_only=True)
class MadeFeatures:
    """A slide that has a feature file now.

    Attributes:
        outcome: what was done for it.
        tissue: where its tissue is; None where the file was there already, and nobody looked for it.
        notes: what a person should know of how the slide was read.
    """

    outcome: Outcome
    tissue: TissueMask | None = None
    notes: tuple[str, ...] = ()


def make_features(
    config: ExtractConfig,
    source: SlideSource,
    encoder: Encoder,
    *,
    started_mtime: float = 0.0,
    report: Callable[[News], None] = ignore,
) -> MadeFeatures:
    """Make the feature file of one slide, unless it is there already; see `extract_slide`.

    Raises:
        ClaimedError: another run is processing the slide.
        WsiVmambaError: what else ends a slide.
    """
    refuse_unusable(source)
    require_there(source)
    path = feature_path(config, source)
    if _is_done(path, config, started_mtime):
        remove_spent(path)
        forget_scratch(config, encoder, path)
        return _check_done(path, config, source, encoder)
    require_short_name(path, slide=source.path)
    with take_claim(path):
        if _is_done(path, config, started_mtime):  # by the run that had the claim a moment ago
            return _check_done(path, config, source, encoder)
        with open_planned(config, source, encoder) as planned:
            save_tissue(config, planned.slide, planned.tissue, planned.plan, slide_id=source.slide_id)
            require_tissue(planned.plan, slide=source.path, tissue=planned.tissue)
            outcome = encode_slide(
                Job(
                    path=path,
                    meta=planned.meta,
                    slide=planned.slide,
                    plan=planned.plan,
                    config=config,
                    encoder=encoder,
                    report=report,
                    scratch=place_of_scratch(config, encoder, path),
                )
            )
            return MadeFeatures(
                outcome=outcome, tissue=planned.tissue, notes=tuple(notes_on(config, planned))
            )


@dataclass(frozen=True, kw_only=True)
class PlannedSlide:
    """A slide that is open, and what of it is to be encoded.

    Attributes:
        slide: the open slide.
        tissue: where its tissue is.
        plan: its regions; there may be none.
        meta: what its feature file will say about itself.
    """

    slide: Slide
    tissue: TissueMask
    plan: RegionPlan
    meta: FeatureMeta


@contextmanager
def open_planned(config: ExtractConfig, source: SlideSource, encoder: Encoder) -> Iterator[PlannedSlide]:
    """Open a slide, find its tissue and plan its regions; nothing is written.

    Raises:
        SlideError: it cannot be read, or is too coarse for the resolution asked for.
        MaskError: its mask is missing or does not fit.
    """
    with _open(config, source) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
        try:
            tissue, plan = plan_slide(config, slide, mpp, slide_id=source.slide_id)
        except UsageError as error:  # this slide is too coarse for what is asked; others may do
            raise SlideError(source.path, str(error)) from error
        meta = _describe(config, source, slide, mpp, plan, encoder, tissue_source=tissue.source)
        meta = replace(meta, stain=stain_of(slide, tissue.mask, mpp=mpp.value))
        yield PlannedSlide(slide=slide, tissue=tissue.mask, plan=plan, meta=meta)


def notes_on(config: ExtractConfig, planned: PlannedSlide) -> list[str]:
    """What a person should know of how a slide was read; its pixels have been."""
    return _notes(config, planned.slide, of_tissue=planned.tissue.notes)


def _notes(config: ExtractConfig, slide: Slide, *, of_tissue: Sequence[str]) -> list[str]:
    notes: list[str] = console.shorten_notes(of_tissue)
    if isinstance(slide, FocalStack):
        notes.append(slide.note)
    elif config.scene is None:
        notes.append(scene_note(slide))
    if config.mpp_override is None:
        notes.append(mpp_note(slide))
    return [note for note in notes if note]


def feature_path(config: ExtractConfig, source: SlideSource) -> Path:
    """Where the feature file of a slide lies."""
    return Path(config.out) / f"{source.slide_id}.zarr"


def _open(config: ExtractConfig, source: SlideSource) -> Slide:
    slide = _open_plain(config, source)
    return TolerantSlide(slide) if config.on_bad_tile == "skip" else slide


def _open_plain(config: ExtractConfig, source: SlideSource) -> Slide:
    opened = open_focal_stack if config.focal_planes == "all" else open_slide
    return opened(source.path, reader=config.reader, scene=config.scene)


def _is_done(path: Path, config: ExtractConfig, started_mtime: float) -> bool:
    return is_complete(path) and (not config.overwrite or 0 < started_mtime < path.stat().st_mtime)


def _check_done(path: Path, config: ExtractConfig, source: SlideSource, encoder: Encoder) -> MadeFeatures:
    """Make sure that a feature file is what this run would make, without segmenting the slide again.

    The notes are those that the run had which made it: whoever made it may have been killed before it said them.
    """
    stored = open_features(path)
    refuse_namesake(path, stored.meta.slide_path, source.path)
    with _open_plain(config, source) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
        try:
            outline = plan_without_regions(config, slide, mpp)
        except UsageError as error:
            raise SlideError(source.path, str(error)) from error
        found_by, of_mask = read_source(config, slide, mpp=mpp.value, slide_id=source.slide_id)
        meta = _describe(config, source, slide, mpp, outline, encoder, tissue_source=found_by)
        notes = tuple(_notes(config, slide, of_tissue=of_mask))
    # A segmenter finds the same regions again, and an edited mask has another hash.
    regions = stored.meta.plan.get("regions", [])
    check_compatible(path, replace(meta, plan={**meta.plan, "regions": regions}))
    left_out = stored.meta.n_left_out
    if left_out and config.on_bad_tile == "fail":
        raise IncompatibleStoreError(
            f"{path} lacks {left_out} patches that damaged tiles touch; take it as it is with --on-bad-tile skip, or "
            "mend the slide and use --overwrite"
        )
    outcome = Outcome(
        slide_id=source.slide_id,
        outcome=ALREADY_DONE,
        regions=len(regions),
        patches=stored.n_patches,
        left_out=left_out,
        detail=count_damage(stored.meta.left_out) if left_out else "",
    )
    return MadeFeatures(outcome=outcome, notes=notes)


def _describe(
    config: ExtractConfig,
    source: SlideSource,
    slide: Slide,
    mpp: ResolvedMpp,
    plan: RegionPlan,
    encoder: Encoder,
    *,
    tissue_source: str,
) -> FeatureMeta:
    return FeatureMeta(
        slide_id=source.slide_id,
        slide_path=str(absolute(source.path)),
        reader=slide.reader,
        scene=scene_of(slide),
        mpp=mpp.value,
        mpp_source=mpp.source,
        target_mpp=config.target_mpp,
        patch_px=config.patch_px,
        patch_l0=plan.patch_l0,
        plan=plan.to_dict(),
        segmenter=tissue_source,
        segmenter_settings=segmenter_numbers(config),
        model=encoder.name,
        weights_hash=encoder.weights_hash,
        precision=encoder.precision,
        versions=package_versions(),
        encoder=facts_of(encoder),
    )
