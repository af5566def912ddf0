"""Regions that are too large for memory: through the encoder with their map in a scratch folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder, ScratchEncoder, StripEncoder, pool_rows
from wsi_vmamba.errors import ClaimedError, MemoryLimitError, UsageError
from wsi_vmamba.extraction.damage import damage_as_json, damage_of_json
from wsi_vmamba.inference.scratch import Scratch, open_scratch, remove_scratch, require_space
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.store import take_claim
from wsi_vmamba.stream import BandStream, StreamStats

_DAMAGE = "damage.json"
#: Begins the name of a scratch that belongs to no feature file.
_EMBED = "embed."


def in_scratch(config: ExtractConfig, encoder: Encoder) -> bool:
    """Whether the maps of regions are kept in files, or may have to be: see `pool_in_memory`.

    Raises:
        UsageError: the background is to be skipped, which the encoder cannot do.
    """
    if config.background == "skip" and not isinstance(encoder, StripEncoder):
        raise UsageError(
            f"background=skip is for VMambas on the CPU with the compiled kernels, not for {encoder.name} on "
            f"{encoder.device}; use --background read, or --device cpu"
        )
    asked = config.scratch is not None or config.region_px == "whole" or config.background == "skip"
    return asked and isinstance(encoder, ScratchEncoder)


def scratch_name(path: Path) -> str:
    """What the scratch of a feature file is called: those of another output folder may lie beside it."""
    return f"{path.name[:100]}.{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"


def place_of_scratch(config: ExtractConfig, encoder: Encoder, path: Path) -> tuple[Path, str] | None:
    """Folder and name of the scratch of a feature file; None where maps are kept in memory."""
    if not in_scratch(config, encoder):
        return None
    return Path(config.scratch or config.out), scratch_name(path)


@contextmanager
def place_in_memory(config: ExtractConfig, encoder: Encoder) -> Iterator[tuple[Path, str] | None]:
    """The same where no feature file is made: the name is nobody else's, and nothing is gone on from.

    The name is claimed, so that the next one who works there can tell what a dead process left, and remove it.
    """
    if not in_scratch(config, encoder):
        yield None
        return
    parent, name = Path(config.scratch or tempfile.gettempdir()), f"{_EMBED}{secrets.token_hex(8)}"
    _remove_left(parent)
    with take_claim(parent / name):
        try:
            yield parent, name
        finally:
            remove_scratch(parent, name)


def _remove_left(parent: Path) -> None:
    """Remove what dead processes of this user left in a folder."""
    for claim in sorted(parent.glob(f".{_EMBED}*.claim")):
        with suppress(FileNotFoundError, ClaimedError):  # somebody else was quicker; its owner lives
            if claim.stat().st_uid != os.getuid():
                continue
            name = claim.name.removeprefix(".").removesuffix(".claim")
            with take_claim(parent / name):
                remove_scratch(parent, name)


def forget_scratch(config: ExtractConfig, encoder: Encoder, path: Path) -> None:
    """Remove what is left of the passes of a slide; the caller has its claim, or it is whole."""
    place = place_of_scratch(config, encoder, path)
    if place is not None:
        remove_scratch(*place)


def pool_in_scratch(
    encoder: ScratchEncoder,
    slide: Slide,
    plan: RegionPlan,
    region: Region,
    *,
    scratch: Scratch,
    stats: StreamStats,
    report: Callable[[float], None],
) -> NDArray[np.float32]:
    """Encode a region and average the tokens of each patch; what an earlier run did of it is not done again."""
    known: list[Any] = scratch.read_json(_DAMAGE) or []
    if isinstance(slide, TolerantSlide):
        slide.add_damage(damage_of_json(known))

    def keep_damage() -> None:
        """Before the pixels are used: whoever goes on will not read them again."""
        nonlocal known
        found = damage_as_json(slide)
        if found != known:
            scratch.write_json(_DAMAGE, found)
            known = found

    with closing(BandStream(slide, plan, region, stats=stats, decoded=keep_damage)) as bands:
        try:
            if plan.spec.background == "skip":
                assert isinstance(encoder, StripEncoder)  # see `in_scratch`
                return encoder.pool_tissue_in_scratch(bands, plan.tissue(region), scratch, report=report)
            rows = encoder.encode_in_scratch(bands, scratch, report=report)
        except MemoryLimitError:  # refused before anything was computed
            if not scratch.resumed:
                scratch.remove()
            raise
    return pool_rows(rows, region, patch_px=plan.spec.patch_px, stride_px=encoder.stride_px)


def pool_in_memory(
    config: ExtractConfig,
    encoder: ScratchEncoder,
    slide: Slide,
    plan: RegionPlan,
    region: Region,
    *,
    stats: StreamStats,
    report: Callable[[float], None],
) -> NDArray[np.float32] | None:
    """The bytes of `pool_in_scratch` without files; None where they are asked for, or memory does not suffice."""
    if plan.spec.background != "skip" or config.scratch is not None or config.region_px == "whole":
        return None
    assert isinstance(encoder, StripEncoder)  # see `in_scratch`
    with closing(BandStream(slide, plan, region, stats=stats, decoded=lambda: None)) as bands:
        try:
            return encoder.pool_tissue(bands, plan.tissue(region), report=report)
        except MemoryLimitError:  # nothing has been read
            return None


def open_region_scratch(
    encoder: ScratchEncoder,
    plan: RegionPlan,
    region: Region,
    *,
    parent: Path,
    name: str,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
) -> Scratch:
    """Go on with the pass of a region, or begin it where the disk has room.

    Raises:
        StoreError: it has not, or refuses.
    """
    scratch = open_scratch(parent, name, {**facts, "region": region.index}, say=say)
    sides = {"height_px": region.height_px, "width_px": region.width_px}
    try:
        tissue = plan.tissue(region) if plan.spec.background == "skip" else None
        takes = require_space(scratch, encoder.scratch_bytes(**sides, tissue=tissue))
        memory = encoder.memory_in_words(**sides)
    except BaseException:
        if not scratch.resumed:
            scratch.remove()
        raise
    takes = f"{takes}; {memory}" if memory else takes
    say(f"goes on in the middle of a region; {takes}" if scratch.resumed else takes)
    return scratch
