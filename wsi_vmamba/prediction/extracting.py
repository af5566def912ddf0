"""New slides are extracted exactly as the training slides were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch

from wsi_vmamba.config import ExtractConfig, PredictConfig, keyword_config
from wsi_vmamba.config.fields import SHIPPED_WEIGHTS
from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.prediction.model import TrainedModel
from wsi_vmamba.training.reference import Origin


def extract_config(
    model: TrainedModel, config: PredictConfig, *, out: Path, encoder: Path | None = None
) -> ExtractConfig:
    """The settings of `extract` that make features as the model was trained on.

    Args:
        model: the model.
        config: of the prediction.
        out: folder for the feature files.
        encoder: file of the backbone's weights that came with the model.

    Raises:
        UsageError: the run does not say how its features were made, or not where the weights are.
    """
    if model.reference is None:
        raise UsageError(
            f"{model.path} does not say how its features were made ({model.missing}); give --trained-on DIR, the "
            "features that it was trained on, or features of the new slides instead of the slides"
        )
    origin = model.reference.origin
    unknown = [name for name in ("region_px", "min_tissue") if getattr(origin, name) is None]
    if unknown:
        raise UsageError(
            f"{model.path}: the features that it was trained on do not say {' and '.join(unknown)}; give features of "
            "the new slides instead of the slides, made by `wsi-vmamba extract` with your own"
        )
    values: dict[str, object] = {
        "slides": config.slides, "out": str(out), "backbone": origin.model,
        "weights": _weights(config, origin, encoder), "seed": origin.seed,
        "precision": origin.precision, "target_mpp": origin.target_mpp, "patch_px": origin.patch_px,
        "region_px": origin.region_px, "min_tissue": origin.min_tissue, "background": origin.background,
        "shuffle_px": origin.shuffle_px, "focal_planes": origin.focal_planes,
        "device": config.device,
        "memory_limit_gb": config.memory_limit_gb, "workers": config.workers, "on_bad_tile": config.on_bad_tile,
        "ids_from_path": config.ids_from_path, "mpp_override": config.mpp_override, "scene": config.scene,
    }  # fmt: skip
    return keyword_config(ExtractConfig, {**values, **_tissue(model, config, origin)})


def check_weights(model: TrainedModel, extract: ExtractConfig, *, weights_hash: str) -> None:
    """Refuse to read slides with other weights than those of the training slides' features.

    Raises:
        IncompatibleStoreError: the encoder has others.
    """
    if model.reference is None or weights_hash == model.reference.origin.weights_hash:
        return
    raise IncompatibleStoreError(
        f"{model.path} was trained on features of {extract.backbone} with weights of SHA-256 "
        f"{model.reference.origin.weights_hash[:12]}…, but --weights {extract.weights} has {weights_hash[:12]}…; give "
        "--weights FILE, the one that the training slides were extracted with"
    )


def _weights(config: PredictConfig, origin: Origin, encoder: Path | None) -> str:
    """Which weights to load; their hash is compared when they are."""
    if config.weights is not None:
        return config.weights
    if encoder is not None:
        return str(encoder)
    return origin.weights or SHIPPED_WEIGHTS


def _tissue(model: TrainedModel, config: PredictConfig, origin: Origin) -> dict[str, object]:
    """What finds the tissue: as for the training slides unless said otherwise."""
    if config.mask is not None:
        return {"mask": config.mask}
    if config.segmenter is not None and config.segmenter != origin.segmenter:
        return {"segmenter": config.segmenter}
    if origin.segmenter == "mask":
        raise UsageError(
            f"{model.path} was trained on slides with tissue masks of your own; give --mask for the new slides too, or "
            "say with --segmenter what is to find their tissue"
        )
    found: dict[str, object] = {"segmenter": origin.segmenter}
    if origin.segmenter_settings:
        found["segmenter_settings"] = dict(origin.segmenter_settings)
    return found


@contextmanager
def encoder_file(model: TrainedModel) -> Iterator[Path | None]:
    """The backbone's weights that came with a packed model as a file, for as long as the block runs; None of others."""
    if model.encoder is None:
        yield None
        return
    with TemporaryDirectory(prefix="wsi-vmamba-encoder-") as folder:
        path = Path(folder) / "encoder.safetensors"
        safetensors.torch.save_file(dict(model.encoder), path)
        yield path
