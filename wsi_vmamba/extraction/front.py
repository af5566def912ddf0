"""The two functions of extraction for Python: one slide to features in memory, many slides to feature files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.board import open_board
from wsi_vmamba.config import ExtractConfig, keyword_config, show_settings
from wsi_vmamba.config.extract import OwnEncoderConfig
from wsi_vmamba.encode import Encoder
from wsi_vmamba.errors import ConfigError, SlideError, UsageError
from wsi_vmamba.extraction.embedding import Embedding
from wsi_vmamba.extraction.encoders import load_encoder
from wsi_vmamba.extraction.encoding import Job
from wsi_vmamba.extraction.in_memory import encode_in_memory
from wsi_vmamba.extraction.in_scratch import place_in_memory
from wsi_vmamba.extraction.one_slide import feature_path, make_features, notes_on, open_planned
from wsi_vmamba.extraction.run import choose_sources, open_run
from wsi_vmamba.extraction.sources import SlideSource, refuse_unusable, require_there
from wsi_vmamba.extraction.summary import Outcomes
from wsi_vmamba.regions import require_tissue
from wsi_vmamba.store import open_features

#: What an encoder that is given has settled already.
_OF_ENCODER = ("backbone", "weights", "precision", "device", "seed", "memory_limit_gb")
_ENCODER_HAS = ("name", "dim", "stride_px", "weights_hash", "precision", "device", "encode", "submit")
#: Settings of many slides, which one slide has no use for.
_OF_MANY = ("ids_from_path", "shard", "workers", "scheduler")


def embed(
    slide: str | Path,
    *,
    out: str | Path | None = None,
    encoder: Encoder | None = None,
    **settings: Any,
) -> Embedding:
    """Read the tissue of one slide and encode its patches.

    Nothing is written unless ``out`` is given; then the feature file is made there, with the tissue beside it, as
    `wsi-vmamba extract` does, and a slide that was interrupted goes on where it was.

    Args:
        slide: a slide file, or the URL of an OME-Zarr.
        out: folder for the feature file; None keeps the features in memory only.
        encoder: what encodes, to be used for several slides; by default what ``backbone``, ``weights``, ``precision``
            and ``device`` say.
        settings: any setting of `ExtractConfig` by name: ``target_mpp=0.5``, ``patch_px=256``, ``backbone=``,
            ``weights=``, ``mask=``, ``mpp_override=``...

    Returns:
        Features (N, D), corners of patches in level-0 pixels (N, 2), tissue and facts.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: there is not exactly one slide.
        SlideError: it cannot be read, has no tissue, or records no resolution.
        StoreError: ``out`` cannot be written, or another run is processing the slide there (ClaimedError).

    Example:
        >>> import wsi_vmamba as wv
        >>> f = wv.embed("slide.svs")  # doctest: +SKIP
        >>> f.features.shape, f.coords_l0.shape  # doctest: +SKIP
        ((1024, 256), (1024, 2))
    """
    for name in _OF_MANY:
        if name in settings:
            raise ConfigError(f"keyword argument: {name!r} is for many slides; use wsi_vmamba.extract")
    _require_place(slide, name="slide")
    config = _config_of_one(slide, out, encoder, settings)
    source = _one_source(config)
    encoder = load_encoder(config) if encoder is None else encoder
    return (embed_source if out is None else _embed_into)(config, source, encoder)


def extract(slides: str | Path, *, out: str | Path = "features", **settings: Any) -> Outcomes:
    """Extract the features of many slides, as `wsi-vmamba extract` does; a slide that fails stops no other.

    An interrupted run goes on where it was when it is called again: finished slides are kept, and of the others their
    finished regions.

    Args:
        slides: a folder of slides (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp.
        out: folder for the feature files ``<slide_id>.zarr``.
        settings: any setting of `ExtractConfig` by name, as for `embed`; also ``workers=``, ``scheduler=``, ``shard=``.

    Returns:
        What became of each slide; ``.ok`` is True where all have features. Shown as a table in a notebook.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: there are no slides, or their names collide.
        StoreError: ``out`` cannot be written.

    Example:
        >>> import wsi_vmamba as wv
        >>> outcomes = wv.extract("slides/", out="features")  # doctest: +SKIP
        >>> [outcome.slide_id for outcome in outcomes if outcome.failed]  # doctest: +SKIP
        []
    """
    _require_place(slides, name="slides")
    config = keyword_config(ExtractConfig, {**settings, "slides": slides, "out": out})
    with open_run(config, choose_sources(config)) as extraction:
        for _ in extraction.extract():
            pass
    if extraction.outcomes.unsaved:
        console.warn(extraction.outcomes.unsaved)
    return extraction.outcomes


def embed_source(config: ExtractConfig, source: SlideSource, encoder: Encoder) -> Embedding:
    """Encode a slide with nothing written."""
    with (
        open_planned(config, source, encoder) as planned,
        open_board(1) as board,
        place_in_memory(config, encoder) as scratch,
    ):
        require_tissue(planned.plan, slide=source.path, tissue=planned.tissue)
        encoded = encode_in_memory(
            Job(
                path=feature_path(config, source),
                meta=planned.meta,
                slide=planned.slide,
                plan=planned.plan,
                config=config,
                encoder=encoder,
                report=board.take,
                scratch=scratch,
            )
        )
        return Embedding(
            features=encoded.features,
            coords_l0=encoded.coords_l0,
            tissue=planned.tissue,
            meta=encoded.meta,
            notes=tuple(notes_on(config, planned)),
        )


def _embed_into(config: ExtractConfig, source: SlideSource, encoder: Encoder) -> Embedding:
    """Make the feature file of a slide, unless it is there already, and give what it holds."""
    with open_board(1) as board:
        made = make_features(config, source, encoder, report=board.take)
    stored = open_features(feature_path(config, source))
    tissue, notes = made.tissue, made.notes
    if tissue is None:
        with open_planned(config, source, encoder) as planned:
            tissue, notes = planned.tissue, tuple(notes_on(config, planned))
        if stored.meta.segmenter != planned.meta.segmenter:
            raise SlideError(source.path, "its mask was changed while it was processed; embed it again")
    return Embedding(
        features=stored.features, coords_l0=stored.coords_l0, tissue=tissue, meta=stored.meta, notes=notes
    )


def _require_place(value: object, *, name: str) -> None:
    """Refuse what is no path before a default takes its place, or an array is printed.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name}: expected a path (str or Path), got {type(value).__name__}")


def _config_of_one(
    slide: str | Path, out: str | Path | None, encoder: Encoder | None, settings: Mapping[str, Any]
) -> ExtractConfig:
    """The configuration of one slide, and of an encoder that is given.

    Raises:
        ConfigError: a setting that the encoder has settled, or patches that are not whole tokens of it.
    """
    values = {**settings, "slides": slide, "out": out}
    if encoder is None:
        return keyword_config(ExtractConfig, values)
    for name in _OF_ENCODER:
        if name in settings:
            raise ConfigError(f"keyword argument: {name!r} is the encoder's, and one is given; leave it out")
    missing = [name for name in _ENCODER_HAS if not hasattr(encoder, name)]
    if missing:
        raise ConfigError(
            f"encoder: expected a wsi_vmamba.encode.Encoder, got {type(encoder).__name__}, which has no "
            f"{', '.join(missing)}; a backbone of the table is named with backbone="
        )
    config = keyword_config(OwnEncoderConfig, values)
    if config.patch_px % encoder.stride_px:
        raise ConfigError(
            f"patch_px must be a multiple of {encoder.stride_px} (the stride of {encoder.name}), got {config.patch_px}"
        )
    return config


def _one_source(config: ExtractConfig) -> SlideSource:
    sources = choose_sources(config)
    if len(sources) != 1:
        raise UsageError(
            f"{config.slides} holds {len(sources)} slides, and embed reads one; name it, or use wsi_vmamba.extract"
        )
    refuse_unusable(sources[0])
    require_there(sources[0])
    return sources[0]


show_settings(embed, ExtractConfig, leave_out=("slides", *_OF_MANY))
show_settings(extract, ExtractConfig, leave_out=("slides",))
