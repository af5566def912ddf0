"""Recipe: slides to feature files, here or on a cluster; a failed slide is named and the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from wsi_vmamba.pipelines.bad_tiles import count_damage
from wsi_vmamba.pipelines.encoding import Job, encode_slide
from wsi_vmamba.pipelines.kept import remove_spent, say_kept
from wsi_vmamba.pipelines.outcomes import (
    ALREADY_DONE,
    CLAIMED,
    Outcome,
    OutcomeTable,
    failure,
    unforeseen,
    until_unclaimed,
)
from wsi_vmamba.pipelines.planning import plan_slide, plan_without_regions
from wsi_vmamba.pipelines.sources import (
    SlideSource,
    find_sources,
    refuse_namesake,
    refuse_other_spellings,
    refuse_unusable,
    require_there,
    take_shard,
)
from wsi_vmamba.pipelines.tissue_files import FOLDER, save_tissue, segmenter_numbers, tissue_source
from wsi_vmamba.pipelines.tracebacks import forget_traceback, keep_traceback

from wsi_vmamba import console
from wsi_vmamba.board import open_board
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.durable import cannot_write_into
from wsi_vmamba.encode import Encoder, build_encoder
from wsi_vmamba.errors import (
    ClaimedError,
    ClusterError,
    IncompatibleStoreError,
    SlideError,
    StoreError,
    UsageError,
    WsiVmambaError,
)
from wsi_vmamba.masks import check_masks
from wsi_vmamba.model.shipped import ResolvedWeights, resolve_weights
from wsi_vmamba.ops import choose_backend
from wsi_vmamba.progress import News, ignore
from wsi_vmamba.provenance import package_versions, write_run_record
from wsi_vmamba.regions import RegionPlan, require_tissue
from wsi_vmamba.slide import ResolvedMpp, Slide, open_slide, resolve_mpp
from wsi_vmamba.slide.location import absolute
from wsi_vmamba.slide.resolution import mpp_note
from wsi_vmamba.slide.scenes import scene_note, scene_of
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.store import (
    FeatureMeta,
    check_compatible,
    end_dead_claims,
    is_complete,
    open_features,
    remove_stale_partials,
    require_short_name,
    take_claim,
)

#: What ends a slide now and then: its file, the disk of its features, its size. It needs no traceback.
_FAULTS = (SlideError, OSError, MemoryError, WsiVmambaError)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all slides of a run share in one process."""

    encoder: Encoder
    weights: ResolvedWeights


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where the slides of a run are worked on.

    Attributes:
        facts: what makes the features there what they are, see `describe_tools`.
        note: where it is, for people.
        extract_all: works on slides and yields their outcomes as they come.
    """

    facts: Mapping[str, str]
    note: str
    extract_all: Callable[..., Iterator[Outcome]]


def run(config: ExtractConfig) -> int:
    """Extract every slide; return 0 when all have features, 1 when some slide failed."""
    started = time.perf_counter()
    sources = find_sources(config.slides, ids_from_path=config.ids_from_path)
    if config.mask is not None:
        check_masks(Path(config.mask), n_slides=len(sources))
    refuse_other_spellings(sources, Path(config.out))
    sources = take_shard(sources, config.shard)
    table = OutcomeTable(Path(config.out) / "extract.csv")
    try:
        with _open_workplace(config) as place:
            facts = place.facts
            console.say(
                f"{len(sources)} slide(s); {facts['backbone']} on {facts['device']} in {facts['precision']}"
                f"{place.note}: {facts['weights']}"
            )
            started_mtime = begin(config, facts)
            try:
                for outcome in place.extract_all(sources, started_mtime=started_mtime):
                    table.add(outcome)
                    _report(outcome)
            finally:
                # Also after Ctrl-C: what was learned so far is kept and shown.
                saved = _save(table)
                table.show(seconds=time.perf_counter() - started)
                prepare.cache_clear()
    finally:
        # Only now the workers are gone, and what they were at is free to be looked at.
        say_kept(Path(config.out), [source.slide_id for source in sources])
    return 0 if saved and not any(outcome.failed for outcome in table.outcomes) else 1


def _save(table: OutcomeTable) -> bool:
    try:
        table.save()
    except StoreError as error:
        console.warn(str(error))
        return False
    return True


@contextmanager
def _open_workplace(config: ExtractConfig) -> Iterator[Workplace]:
    """This process, or the workers that the configuration asks for."""
    if not config.workers and not config.scheduler:
        facts = describe_tools(config)
        yield Workplace(facts=facts, note="", extract_all=partial(extract_all, config))
        return
    # Importing Dask takes half a second, which those who do not use it need not wait.
    try:
        from wsi_vmamba.pipelines.cluster import open_cluster
    except ValueError as error:  # what Dask says of its configuration files, which it reads when imported
        cause = " ".join(str(error).split())
        raise ClusterError(
            f"Dask cannot be loaded: {cause}; mend or remove that file, or leave out --workers"
        ) from error

    with open_cluster(config) as cluster:
        yield Workplace(facts=cluster.facts, note=cluster.note, extract_all=cluster.extract_all)


def describe_tools(config: ExtractConfig) -> dict[str, str]:
    """What makes the features that this process would make what they are: model, weights, device, precision."""
    tools = prepare(config)
    kernel, why = choose_backend(torch.device(tools.encoder.device), torch.float32)
    return {
        "backbone": tools.encoder.name,
        "weights": tools.weights.note,
        "weights_hash": tools.encoder.weights_hash,
        "device": tools.encoder.device,
        "precision": tools.encoder.precision,
        "scan_kernel": kernel,
        "scan_kernel_why": why,
    }


def begin(config: ExtractConfig, facts: Mapping[str, str]) -> float:
    """Clear what dead runs left in the output folder, and record what this one is.

    Returns:
        The time of the start, by the clock of the output folder's file system.

    Raises:
        StoreError: the folder cannot be written.
    """
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        end_dead_claims(out)
        remove_stale_partials(out)
        remove_stale_partials(out / FOLDER)
        write_run_record(out, command="extract", config=config, facts=facts)
        return (out / "extract.run.json").stat().st_mtime
    except OSError as error:
        raise StoreError(cannot_write_into(out, error, option="--out")) from error


def extract_all(
    config: ExtractConfig, sources: Sequence[SlideSource], *, started_mtime: float
) -> Iterator[Outcome]:
    """Extract one slide after another; slides that other runs are at come last, when those are through or dead."""
    with open_board(len(sources)) as board:

        def extract(waiting: Sequence[SlideSource]) -> Iterator[tuple[SlideSource, Outcome]]:
            for source in waiting:
                yield source, extract_slide(config, source, started_mtime=started_mtime, report=board.take)

        for outcome in until_unclaimed(sources, extract):
            board.finish(outcome.slide_id)
            yield outcome


def extract_slide(
    config: ExtractConfig,
    source: SlideSource,
    *,
    started_mtime: float = 0.0,
    report: Callable[[News], None] = ignore,
) -> Outcome:
    """Extract one slide; the one boundary where a slide's error becomes an outcome, so that the others go on.

    A plain function of values that can be pickled, for schedulers to call anywhere. The encoder is built once per
    process and configuration. Where another run is at the slide the outcome is `CLAIMED`: call again later.

    Args:
        config: of the run.
        source: the slide.
        started_mtime: with ``overwrite``, feature files made after this time (see `begin`) are kept: they are new.
        report: takes news of the progress, from this thread.
    """
    started = time.perf_counter()
    try:
        outcome = _extract(config, source, started_mtime, report)
        forget_traceback(Path(config.out), source.slide_id)
    except ClaimedError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome=CLAIMED, detail=f"{error.owner} is at it")
    except _FAULTS as error:
        outcome = failure(source.slide_id, error)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is this slide's: the others go on
        kept = keep_traceback(Path(config.out), source.slide_id, error)
        outcome = unforeseen(source.slide_id, error, kept=kept)
    return replace(outcome, seconds=round(time.perf_counter() - started, 3))


@lru_cache(maxsize=1)
def prepare(config: ExtractConfig) -> Tools:
    """Build what all slides share; kept for the next call with an equal configuration."""
    weights = resolve_weights(config.backbone, config.weights)
    encoder = build_encoder(
        config.backbone,
        weights=config.weights,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
        memory_limit=None if config.memory_limit_gb is None else int(config.memory_limit_gb * 1e9),
    )
    return Tools(encoder=encoder, weights=weights)


def _extract(
    config: ExtractConfig, source: SlideSource, started_mtime: float, report: Callable[[News], None]
) -> Outcome:
    refuse_unusable(source)
    require_there(source)
    path = Path(config.out) / f"{source.slide_id}.zarr"
    if _is_done(path, config, started_mtime):
        remove_spent(path)
        return _check_done(path, config, source)
    require_short_name(path, slide=source.path)
    with take_claim(path):
        if _is_done(path, config, started_mtime):  # by the run that had the claim a moment ago
            return _check_done(path, config, source)
        with _open(config, source) as slide:
            mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
            try:
                tissue, plan = plan_slide(config, slide, mpp, slide_id=source.slide_id)
            except UsageError as error:  # this slide is too coarse for what is asked; others may do
                raise SlideError(source.path, str(error)) from error
            save_tissue(config, slide, tissue, plan, slide_id=source.slide_id)
            require_tissue(plan, slide=source.path, tissue=tissue)
            notes = console.shorten_notes(tissue.notes)
            del tissue  # the picture it was found in is not needed while encoding
            meta = _describe(config, source, slide, mpp, plan)
            outcome = encode_slide(
                Job(
                    path=path,
                    meta=meta,
                    slide=slide,
                    plan=plan,
                    config=config,
                    encoder=prepare(config).encoder,
                    report=report,
                )
            )
            if config.scene is None:
                notes.append(scene_note(slide))
            if config.mpp_override is None:
                notes.append(mpp_note(slide))
    return replace(outcome, detail="; ".join(filter(None, [outcome.detail, *notes])))


def _open(config: ExtractConfig, source: SlideSource) -> Slide:
    slide = open_slide(source.path, reader=config.reader, scene=config.scene)
    return TolerantSlide(slide) if config.on_bad_tile == "skip" else slide


def _is_done(path: Path, config: ExtractConfig, started_mtime: float) -> bool:
    return is_complete(path) and (not config.overwrite or 0 < started_mtime < path.stat().st_mtime)


def _check_done(path: Path, config: ExtractConfig, source: SlideSource) -> Outcome:
    """Make sure that a feature file is what this run would make, without segmenting the slide again."""
    stored = open_features(path)
    refuse_namesake(path, stored.meta.slide_path, source.path)
    with open_slide(source.path, reader=config.reader, scene=config.scene) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
        try:
            outline = plan_without_regions(config, slide, mpp)
        except UsageError as error:
            raise SlideError(source.path, str(error)) from error
        meta = _describe(config, source, slide, mpp, outline)
    # A segmenter finds the same regions again, and an edited mask has another hash.
    regions = stored.meta.plan.get("regions", [])
    check_compatible(path, replace(meta, plan={**meta.plan, "regions": regions}))
    left_out = stored.meta.n_left_out
    if left_out and config.on_bad_tile == "fail":
        raise IncompatibleStoreError(
            f"{path} lacks {left_out} patches that damaged tiles touch; take it as it is with --on-bad-tile skip, or "
            "mend the slide and use --overwrite"
        )
    return Outcome(
        slide_id=source.slide_id,
        outcome=ALREADY_DONE,
        regions=len(regions),
        patches=stored.n_patches,
        left_out=left_out,
        detail=count_damage(stored.meta.left_out) if left_out else "",
    )


def _describe(
    config: ExtractConfig, source: SlideSource, slide: Slide, mpp: ResolvedMpp, plan: RegionPlan
) -> FeatureMeta:
    encoder = prepare(config).encoder
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
        segmenter=tissue_source(config, slide_id=source.slide_id),
        segmenter_settings=segmenter_numbers(config),
        model=encoder.name,
        weights_hash=encoder.weights_hash,
        precision=encoder.precision,
        versions=package_versions(),
    )


def _report(outcome: Outcome) -> None:
    left_out = f", {outcome.left_out} patches left out" if outcome.left_out else ""
    counted = f"{outcome.regions} region(s), {outcome.patches} patches{left_out}, {outcome.seconds:.1f} s"
    console.say(f"{outcome.slide_id}: {outcome.outcome} ({outcome.detail if outcome.failed else counted})")
    if outcome.detail and not outcome.failed:
        console.say(f"{outcome.slide_id}: note: {outcome.detail}")
