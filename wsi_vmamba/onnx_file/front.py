"""Writing ONNX files from Python: `export_onnx`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.onnx import OnnxConfig
from wsi_vmamba.durable import require_writable, write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import classes_in, read_state
from wsi_vmamba.onnx_file.graph import count_nodes
from wsi_vmamba.onnx_file.write import build_model, require_onnx


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A file that was written.

    Attributes:
        path: where it lies.
        n_bytes: its size.
        nodes: of its graph.
        nodes_with_bodies: and of the bodies of its loops.
        outputs: "features" (B, d, h, w), and "logits" (B, classes) where the weights have a head.
        model: the network in torch that it was made from.
    """

    path: Path
    n_bytes: int
    nodes: int
    nodes_with_bodies: int
    outputs: tuple[str, ...]
    model: VMamba = field(repr=False)


def export_onnx(**settings: Any) -> OnnxFile:
    """Write a VMamba as an ONNX file, as `wsi-vmamba onnx` does: images to features, and logits.

    Its images (B, 3, H, W) are normalised with the mean and the deviation of ImageNet. Only standard operators are in
    it, so that any runtime can compute it; the scans are exact for any length.

    Args:
        settings: any setting of `OnnxConfig` by name.

    Returns:
        The file.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: the backbone is no VMamba, onnx is not installed, or the file is there already.
        WeightsError: the weights do not fit.
        StoreError: the file cannot be written.

    Example:
        >>> import wsi_vmamba as wv
        >>> wv.export_onnx(backbone="vmamba_pico", out="model.onnx").nodes  # doctest: +SKIP
        388
    """
    return write_onnx(keyword_config(OnnxConfig, settings))


show_settings(export_onnx, OnnxConfig)


def write_onnx(config: OnnxConfig) -> OnnxFile:
    """Write the file that a configuration asks for; see `export_onnx`."""
    out = Path(config.out or f"{config.backbone}.onnx")
    require_onnx()
    if out.exists() and not config.overwrite:
        raise UsageError(f"{out} is there already; give --overwrite to replace it, or another --out")
    require_writable(out.parent, option="--out")
    weights = resolve_weights(config.backbone, config.weights).path
    model = build_backbone(config.backbone, weights=weights, seed=config.seed)
    if not isinstance(model, VMamba):
        raise UsageError(
            f"only VMambas are written as ONNX, and {config.backbone} is none; take a vmamba_..."
        )
    has_head = weights is None or classes_in(read_state(weights)) is not None
    built = build_model(
        model, name=config.backbone, px=config.px, precision=config.precision, logits=has_head
    )
    content = built.SerializeToString()
    write_atomic(out, content)
    return OnnxFile(
        path=out,
        n_bytes=len(content),
        nodes=count_nodes(built.graph, bodies=False),
        nodes_with_bodies=count_nodes(built.graph, bodies=True),
        outputs=tuple(one.name for one in built.graph.output),
        model=model.eval(),
    )
