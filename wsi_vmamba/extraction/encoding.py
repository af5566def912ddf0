"""One slide through the encoder: every region is kept as it comes, and the feature file is made of what is kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import (
    Encoder,
    ScratchEncoder,
    WindowEncoder,
    encode_each,
    pool_patches,
    scans,
)
from wsi_vmamba.errors import UnreadableSlideError, WsiVmambaError
from wsi_vmamba.extraction.damage import (
    count_damage,
    damage_as_json,
    damage_of_json,
    describe_left_out,
    touched_patches,
)
from wsi_vmamba.extraction.focal_stacks import stream_asked
from wsi_vmamba.extraction.in_scratch import open_region_scratch, pool_in_memory, pool_in_scratch
from wsi_vmamba.extraction.outcomes import DONE, Outcome
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch import remove_scratch as remove_scratches
from wsi_vmamba.ops import choose_backend
from wsi_vmamba.progress import News
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.identity import slide_identity
from wsi_vmamba.slide.location import is_url
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.store import (
    DoneRegion,
    FeatureMeta,
    FeatureWriter,
    as_stored,
    check_compatible,
    is_complete,
    open_features,
    open_journal,
)
from wsi_vmamba.stream import StreamStats


@dataclass(frozen=True, kw_only=True)
class Job:
    """A slide to be encoded, opened and planned.

    Attributes:
        path: of its feature file; this process has the claim.
        meta: what the file will say about itself.
        slide: the open slide.
        plan: its regions.
        config: of the run.
        encoder: what encodes.
        report: takes news of the progress.
        scratch: folder and name of the files that hold the map of a region, if it has any; None never has.
    """

    path: Path
    meta: FeatureMeta
    slide: Slide
    plan: RegionPlan
    config: ExtractConfig
    encoder: Encoder
    report: Callable[[News], None]
    scratch: tuple[Path, str] | None = None


class Journal(Protocol):
    """Keeps the regions of a slide as they come: a `RegionJournal` on the disk, or a `MemoryJournal`."""

    def __contains__(self, index: int) -> bool: ...

    def append(self, region: DoneRegion) -> None:
        """Keep a region."""
        ...

    def read(self, index: int) -> DoneRegion:
        """Give back a region that is kept."""
        ...


def encode_slide(job: Job) -> Outcome:
    """Encode the regions that are not kept yet, then make the feature file of all of them.

    What ends it leaves the finished regions to the next run, unless they are of no use to it: see `is_worth_keeping`.
    """
    as_opened = slide_identity(job.slide.path)
    stats = StreamStats()
    facts = job_facts(job, as_opened)
    journal = open_journal(
        job.path,
        facts,
        n_patches=[len(region.patches) for region in job.plan.regions],
        dim=job.encoder.dim,
        say=lambda text: job.report(News(slide_id=job.meta.slide_id, note=text)),
    )
    try:
        encode_missing(job, journal, stats, facts)
        require_unchanged(job, as_opened)
        meta, n_left_out = _assemble(job, journal)
    except BaseException as error:
        if is_worth_keeping(error) and not is_url(job.slide.path):
            journal.close()
        else:
            journal.discard()
            remove_scratch(job)
        raise
    journal.discard()
    remove_scratch(job)
    return Outcome(
        slide_id=meta.slide_id,
        outcome=DONE,
        detail=count_damage(meta.left_out) if n_left_out else "",
        regions=len(job.plan.regions),
        patches=job.plan.n_patches - n_left_out,
        left_out=n_left_out,
        decode_s=round(stats.decode_s, 3),
        wait_s=round(stats.wait_s, 3),
        stream_s=round(stats.stream_s, 3),
    )


def is_worth_keeping(error: BaseException) -> bool:
    """Whether the same command may get further with a slide that ended so.

    An interrupt, a full disk, a file server that went away, memory: yes. What we say of the slide itself or of the
    settings: no, it has to be mended first, and is another one then.
    """
    if not isinstance(error, WsiVmambaError) or isinstance(error, MemoryError):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return True
        cause = cause.__cause__
    return False


def remove_scratch(job: Job) -> None:
    """Remove the files of a pass that nobody goes on with."""
    if job.scratch is not None:
        remove_scratches(*job.scratch)


def job_facts(job: Job, identity: str | None) -> dict[str, Any]:
    """All that the features of a region depend on: regions made with anything else are never mixed in.

    More than a feature file compares: also versions, processor and kernels, so that a slide that was interrupted has
    the same bytes as one that was not.
    """
    settings = job.meta.to_dict()
    for name in ("slide_path", "left_out", "stain"):
        del settings[name]
    device = torch.device(job.encoder.device)
    kernel, _ = choose_backend(device, torch.float32)
    # Of a slide behind a URL nobody can say whether it is still the same.
    content = identity or f"unknown {secrets.token_hex(4)}"
    return {
        **settings,
        "content of the slide": content[:16],
        "device": device.type,
        "processor": _processor(device),
        **({"scan_kernel": kernel} if scans(job.encoder) else {}),
    }


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def encode_missing(job: Job, journal: Journal, stats: StreamStats, facts: Mapping[str, Any]) -> None:
    """Encode the regions that the journal lacks, and keep each as it comes; ``facts`` are all that they depend on."""
    plan, slide, patch_px = job.plan, job.slide, job.config.patch_px
    missing = _missing_regions(job, journal)
    news = _Progress(job, missing)
    news.step()

    def sound_regions() -> Iterator[tuple[tuple[Region, NDArray[np.bool_]], NDArray[np.uint8]]]:
        """Regions with the patches that no damaged tile touches, and their pixels."""
        decoded_regions = stream_asked(
            slide, plan, regions=missing, prefetch=job.config.prefetch, stats=stats
        )
        for decoded in decoded_regions:
            sound = ~touched_patches(plan, decoded.region, slide.damage(plan.level))
            if sound.any():
                yield (decoded.region, sound), decoded.pixels
            else:
                keep(decoded.region, sound, np.empty((0, job.encoder.dim), np.float16))

    def keep(region: Region, sound: NDArray[np.bool_], features: NDArray[np.float16]) -> None:
        journal.append(
            DoneRegion(index=region.index, sound=sound, features=features, damage=damage_as_json(slide))
        )
        news.step(region)

    def keep_pooled(region: Region, sound: NDArray[np.bool_], pooled: NDArray[np.float32]) -> None:
        corners = plan.coords_l0(region)[sound]
        keep(region, sound, as_stored(pooled[sound], corners, where=job.path, model=job.meta.model))

    if job.scratch is not None and isinstance(job.encoder, ScratchEncoder):
        for region in missing:
            pooled, scratch = _pooled_alone(
                job, job.encoder, job.scratch, region, stats, facts, report=partial(news.within, region)
            )
            sound = ~touched_patches(plan, region, slide.damage(plan.level))
            keep_pooled(region, sound, pooled)
            if scratch is not None:
                scratch.remove()
        return
    for region, sound, pooled in _pooled(job.encoder, sound_regions(), patch_px=patch_px):
        keep_pooled(region, sound, pooled)


def _pooled(
    encoder: Encoder,
    regions: Iterator[tuple[tuple[Region, NDArray[np.bool_]], NDArray[np.uint8]]],
    *,
    patch_px: int,
) -> Iterator[tuple[Region, NDArray[np.bool_], NDArray[np.float32]]]:
    """Features of the patches of each region; where windows know nothing of each other, of the patches alone."""
    if isinstance(encoder, WindowEncoder):
        for (region, sound), pixels in regions:
            yield region, sound, encoder.encode_patches(pixels, region, patch_px=patch_px)
        return
    for (region, sound), feature_map in encode_each(encoder, regions):
        pooled = pool_patches(feature_map, region, patch_px=patch_px, stride_px=encoder.stride_px)
        yield region, sound, pooled


def _pooled_alone(
    job: Job,
    encoder: ScratchEncoder,
    place: tuple[Path, str],
    region: Region,
    stats: StreamStats,
    facts: Mapping[str, Any],
    *,
    report: Callable[[float], None],
) -> tuple[NDArray[np.float32], Scratch | None]:
    """Features of all patches of a region, and the scratch that may go when they are kept, where there is one."""
    slide, plan = job.slide, job.plan
    pooled = pool_in_memory(job.config, encoder, slide, plan, region, stats=stats, report=report)
    if pooled is not None:
        return pooled, None
    parent, name = place
    scratch = open_region_scratch(
        encoder,
        plan,
        region,
        parent=parent,
        name=name,
        facts=facts,
        say=lambda text: job.report(News(slide_id=job.meta.slide_id, note=text)),
    )
    return pool_in_scratch(encoder, slide, plan, region, scratch=scratch, stats=stats, report=report), scratch


def _missing_regions(job: Job, journal: Journal) -> list[Region]:
    """Regions that have to be encoded; the slide is told what is known to be damaged of the others."""
    missing = []
    for region in job.plan.regions:
        if region.index not in journal:
            missing.append(region)
            continue
        kept = journal.read(region.index)
        if isinstance(job.slide, TolerantSlide):
            job.slide.add_damage(damage_of_json(kept.damage))
        elif not kept.sound.all():
            # Kept by a run that leaves out what is damaged; this one has to fail on it.
            missing.append(region)
    return missing


def _assemble(job: Job, journal: Journal) -> tuple[FeatureMeta, int]:
    """Make the feature file; gives its attributes and the number of patches left out."""
    left_out: list[NDArray[np.int64]] = []
    if is_complete(job.path) and not job.config.overwrite:
        # Another run was quicker: one that took this one for dead.
        check_compatible(job.path, job.meta)
        made = open_features(job.path).meta
        return made, made.n_left_out
    with FeatureWriter(job.path, job.meta, job.encoder.dim, overwrite=job.config.overwrite) as writer:
        for features, corners in sound_blocks(job, journal, left_out):
            writer.append(features, corners)
        writer.commit(left_out=record_left_out(job, left_out))
        return writer.meta, sum(map(len, left_out))


def sound_blocks(
    job: Job, journal: Journal, left_out: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.float16], NDArray[np.int64]]]:
    """Features and corners of the sound patches, region by region; the others are added to ``left_out``."""
    for region in job.plan.regions:
        kept = journal.read(region.index)
        if not kept.sound.all():
            left_out.append(region.patches[~kept.sound])
        if kept.sound.any():
            yield kept.features, job.plan.coords_l0(region)[kept.sound]
    n_left_out = sum(map(len, left_out))
    if n_left_out == job.plan.n_patches:
        raise UnreadableSlideError(
            job.slide.path, f"every one of its {n_left_out} patches touches a damaged tile"
        )


def record_left_out(job: Job, left_out: list[NDArray[np.int64]]) -> dict[str, Any]:
    """What a feature file records of patches without features, see `FeatureMeta.left_out`."""
    return describe_left_out(left_out, job.slide) if left_out else {}


def require_unchanged(job: Job, as_opened: str | None) -> None:
    """Refuse a slide that is another one now than when it was opened."""
    if slide_identity(job.slide.path) != as_opened:
        raise UnreadableSlideError(job.slide.path, "it was changed, moved or removed while it was read")


class _Progress:
    """Says how far a slide is, region by region."""

    def __init__(self, job: Job, missing: list[Region]) -> None:
        self._job = job
        self._left_px = self._missing_px = sum(region.width_px * region.height_px for region in missing)
        self._left = len(missing)
        self._within_px = 0
        self._kept_px: int | None = None

    def within(self, region: Region, share: float) -> None:
        """So much of a region is done; what is done of it at first, an earlier run did."""
        self._within_px = int(share * region.width_px * region.height_px)
        if self._kept_px is None:
            self._kept_px = self._within_px
        self._say()

    def step(self, region: Region | None = None) -> None:
        if region is not None:
            self._left -= 1
            self._left_px -= region.width_px * region.height_px
            self._within_px = 0
        self._say()

    def _say(self) -> None:
        total_px = self._job.plan.encoded_px
        self._job.report(
            News(
                slide_id=self._job.meta.slide_id,
                regions=len(self._job.plan.regions) - self._left,
                n_regions=len(self._job.plan.regions),
                done_px=total_px - self._left_px + self._within_px,
                total_px=total_px,
                kept_px=total_px - self._missing_px + (self._kept_px or 0),
            )
        )
