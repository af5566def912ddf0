"""Recipe: slides to feature files. One slide after another; a failed slide is named and the others go on."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from wsi_vmamba.pipelines.sources import SlideSource, find_sources
from wsi_vmamba.pipelines.tissue_files import find_tissue, prepare_tissue, save_tissue, tissue_source

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder, build_encoder, pool_cells
from wsi_vmamba.errors import NoTissueError, SlideError, StoreError
from wsi_vmamba.model.shipped import ResolvedWeights, resolve_weights
from wsi_vmamba.ops import choose_backend
from wsi_vmamba.provenance import package_versions, write_run_record, write_text_atomic
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_regions, require_tissue
from wsi_vmamba.slide import ResolvedMpp, Slide, open_slide, resolve_mpp
from wsi_vmamba.store import FeatureMeta, FeatureWriter, check_compatible, is_complete
from wsi_vmamba.stream import StreamStats, stream_regions
from wsi_vmamba.tissue import TissueMask


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide; ``wait_s`` is how long the encoder waited for pixels."""

    slide_id: str
    outcome: str
    detail: str = ""
    regions: int = 0
    cells: int = 0
    seconds: float = 0.0
    decode_s: float = 0.0
    wait_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the slide has no feature file now."""
        return self.outcome not in {"done", "already done"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all slides of a run share."""

    config: ExtractConfig
    encoder: Encoder
    weights: ResolvedWeights
    out: Path


def run(config: ExtractConfig) -> int:
    """Extract every slide; return 0 when all have features, 1 when some slide failed."""
    started = time.perf_counter()
    sources = find_sources(config.slides)
    prepare_tissue(config, n_slides=len(sources))
    job = _prepare(config)
    encoder = job.encoder
    console.say(
        f"{len(sources)} slide(s); {encoder.name} on {encoder.device} in {encoder.precision}: {job.weights.note}"
    )
    outcomes = [_extract_or_report(job, source) for source in sources]
    _save(job, outcomes)
    _summarize(outcomes, job.out, seconds=time.perf_counter() - started)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def plan_slide(
    config: ExtractConfig, slide: Slide, mpp: ResolvedMpp, *, slide_id: str | None = None
) -> tuple[TissueMask, RegionPlan]:
    """Find the tissue of a slide, or read its mask, and plan its regions; the plan may be empty."""
    tissue = find_tissue(config, slide, mpp=mpp.value, slide_id=slide_id or slide.slide_id)
    spec = RegionSpec(
        target_mpp=config.target_mpp,
        region_px=config.region_px,
        cell_px=config.cell_px,
        min_tissue=config.min_tissue,
    )
    plan = plan_regions(
        width_l0=slide.levels[0].width_px,
        height_l0=slide.levels[0].height_px,
        mpp=mpp.value,
        levels=slide.levels,
        spec=spec,
        tissue=tissue,
    )
    return tissue, plan


def _prepare(config: ExtractConfig) -> Job:
    weights = resolve_weights(config.backbone, config.weights)
    encoder = build_encoder(
        config.backbone,
        weights=weights.path,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
        memory_limit=None if config.memory_limit_gb is None else int(config.memory_limit_gb * 1e9),
    )
    return Job(config=config, encoder=encoder, weights=weights, out=Path(config.out))


def _extract_or_report(job: Job, source: SlideSource) -> Outcome:
    """The one boundary where a slide's error becomes an outcome, so that the others go on."""
    started = time.perf_counter()
    try:
        outcome = _extract(job, source)
    except NoTissueError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="no tissue", detail=error.message)
    except SlideError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="failed", detail=error.message)
    except StoreError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="failed", detail=str(error))
    outcome = replace(outcome, seconds=round(time.perf_counter() - started, 3))
    counted = f"{outcome.regions} region(s), {outcome.cells} cells, {outcome.seconds:.1f} s"
    console.say(f"{outcome.slide_id}: {outcome.outcome} ({outcome.detail if outcome.failed else counted})")
    return outcome


def _extract(job: Job, source: SlideSource) -> Outcome:
    config, path = job.config, job.out / f"{source.slide_id}.zarr"
    with open_slide(source.path, reader=config.reader) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
        tissue, plan = plan_slide(config, slide, mpp, slide_id=source.slide_id)
        if config.overwrite or not is_complete(path):
            save_tissue(config, slide, tissue, plan, slide_id=source.slide_id)
        require_tissue(plan, slide=source.path, tissue=tissue)
        del tissue  # the picture it was found in is not needed while encoding
        meta = _describe(job, source, slide, mpp, plan)
        outcome = Outcome(
            slide_id=source.slide_id, outcome="already done", regions=len(plan.regions), cells=plan.n_cells
        )
        if is_complete(path) and not config.overwrite:
            check_compatible(path, meta)
            return outcome
        stats = _encode_into(path, meta, slide, plan, job)
        return replace(
            outcome, outcome="done", decode_s=round(stats.decode_s, 3), wait_s=round(stats.wait_s, 3)
        )


def _encode_into(path: Path, meta: FeatureMeta, slide: Slide, plan: RegionPlan, job: Job) -> StreamStats:
    config, encoder, stats = job.config, job.encoder, StreamStats()
    with (
        FeatureWriter(path, meta, encoder.dim, overwrite=config.overwrite) as writer,
        console.progress(meta.slide_id, len(plan.regions)) as task,
    ):
        for decoded in stream_regions(slide, plan, prefetch=config.prefetch, stats=stats):
            region = decoded.region
            feature_map = encoder.encode(decoded.pixels)
            features = pool_cells(feature_map, region, cell_px=config.cell_px, stride_px=encoder.stride_px)
            writer.append(features, plan.coords_l0(region))
            task.step(f"region {region.width_px} x {region.height_px} px")
        writer.commit()
    return stats


def _describe(job: Job, source: SlideSource, slide: Slide, mpp: ResolvedMpp, plan: RegionPlan) -> FeatureMeta:
    return FeatureMeta(
        slide_id=source.slide_id,
        slide_path=str(source.path),
        reader=slide.reader,
        mpp=mpp.value,
        mpp_source=mpp.source,
        target_mpp=job.config.target_mpp,
        cell_px=job.config.cell_px,
        cell_l0=plan.cell_l0,
        plan=plan.to_dict(),
        segmenter=tissue_source(job.config, slide_id=source.slide_id),
        model=job.encoder.name,
        weights_hash=job.encoder.weights_hash,
        precision=job.encoder.precision,
        versions=package_versions(),
    )


def _save(job: Job, outcomes: Sequence[Outcome]) -> None:
    """Write the table of outcomes and the provenance beside the features."""
    kernel, why = choose_backend(torch.empty(0, device=job.encoder.device))
    facts = {
        "backbone": job.encoder.name,
        "weights": job.weights.note,
        "weights_hash": job.encoder.weights_hash,
        "device": job.encoder.device,
        "precision": job.encoder.precision,
        "scan_kernel": kernel,
        "scan_kernel_why": why,
    }
    write_run_record(job.out, command="extract", config=job.config, facts=facts)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Outcome.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(outcome) for outcome in outcomes)
    write_text_atomic(job.out / "extract.csv", text.getvalue())


def _summarize(outcomes: Sequence[Outcome], out: Path, *, seconds: float) -> None:
    failures = [outcome for outcome in outcomes if outcome.failed]
    already = sum(outcome.outcome == "already done" for outcome in outcomes)
    console.say(
        f"{len(outcomes) - len(failures)} of {len(outcomes)} slides have features in {out} "
        f"({already} were there already); {seconds:.1f} s"
    )
    if failures:
        rows = [(failure.slide_id, failure.outcome, failure.detail) for failure in failures]
        console.print_table("Slides without features", ("slide", "outcome", "cause"), rows)
