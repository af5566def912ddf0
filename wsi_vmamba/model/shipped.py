"""Weights that come with the package, and what the word given to `--weights` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import BACKBONES

FOLDER = Path(__file__).parent / "pretrained"
#: Backbone -> weights shipped with it. Trained on generated images only, by the settings of
#: configs/pretrain-painted.yaml.
SHIPPED: Mapping[str, str] = {"vmamba_pico": "vmamba_pico_synthetic.safetensors"}
#: Backbone -> where its published weights are, for the message that none are here.
PUBLISHED: Mapping[str, str] = {
    "timm_resnet152": "https://huggingface.co/timm/resnet152.a1h_in1k",
    "timm_swin_tiny": "https://huggingface.co/timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm_vit_small": "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
}
#: Backbones that have no weights at all.
WITHOUT_WEIGHTS = frozenset({"null"})
#: Between the name of a checkpoint and the name of what to take of it.
CHOICE = "#"


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """The file to load (None: none is loaded), and a line for people about what that means.

    Behind the file may stand ``#NAME``, for one of the state dicts in it.
    """

    path: Path | None
    note: str


def resolve_weights(backbone: str, choice: str | Path) -> ResolvedWeights:
    """Resolve ``auto`` (shipped with the backbone), ``random`` or a file name.

    A builder of another package may name the file that ``auto`` stands for in its attribute ``auto_weights``.

    Raises:
        UnknownNameError: no such backbone.
        UsageError: ``choice`` is none of the three, nothing is shipped with the backbone, or the file does not exist.
    """
    BACKBONES.check(backbone)
    if not isinstance(choice, str | Path):
        raise UsageError(f"weights are 'auto' (shipped), 'random' or a file, got {choice!r}")
    if backbone in WITHOUT_WEIGHTS:
        return ResolvedWeights(path=None, note="it has no weights")
    if choice == "random":
        return ResolvedWeights(path=None, note="random weights, of no use but for tests and baselines")
    if choice != "auto":
        file, part = split_choice(choice)
        if not file.is_file():
            raise UsageError(
                f"no weights file at {file.absolute()}; give a .safetensors or .pth file, auto or random"
            )
        of = f"{part} of " if part else ""
        return ResolvedWeights(path=Path(choice), note=f"weights from {of}{file}")
    own = getattr(BACKBONES.resolve(backbone), "auto_weights", None)
    if own is not None:
        return ResolvedWeights(path=Path(own), note=f"weights that come with {backbone}")
    if backbone not in SHIPPED:
        where = f", for example model.safetensors of {PUBLISHED[backbone]}" if backbone in PUBLISHED else ""
        raise UsageError(
            f"no weights are shipped with {backbone}; give --weights FILE (a published .pth or a .safetensors{where}), "
            f"or --weights random to test the pipeline. Shipped with weights: {', '.join(SHIPPED)}"
        )
    return ResolvedWeights(
        path=FOLDER / SHIPPED[backbone], note="shipped weights, trained on generated images only"
    )


def split_choice(path: str | Path) -> tuple[Path, str | None]:
    """Part ``file.pth#model_ema`` into the file and what to take of it; None where nothing is named.

    If a file of the whole name exists, it is that file.
    """
    file = Path(path)
    if file.is_file() or CHOICE not in file.name:
        return file, None
    name, _, choice = file.name.rpartition(CHOICE)
    return file.with_name(name), choice
