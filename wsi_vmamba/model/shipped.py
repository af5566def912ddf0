"""Weights that come with the package, and what the word given to `--weights` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.model import BACKBONES
from wsi_vmamba.model.releases import RELEASES, releases_of
from wsi_vmamba.model.stored import VARIANT, WORDS, is_name, read_header, stored_files
from wsi_vmamba.model.window_names import Given, is_window_name

FOLDER = Path(__file__).parent / "pretrained"
#: Backbone -> the weights in the package that `auto` stands for. What they are says docs/model-card.md. Beside them lie
#: those they began with, vmamba_pico_synthetic, trained on generated images only by configs/pretrain-painted.yaml.
SHIPPED: Mapping[str, str] = {"vmamba_pico": "vmamba_pico_tissue.safetensors"}
#: Backbone -> where its published weights are, for the message that none are here.
PUBLISHED: Mapping[str, str] = {
    "timm_resnet152": "https://huggingface.co/timm/resnet152.a1h_in1k",
    "timm_swin_tiny": "https://huggingface.co/timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm_vit_small": "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
}
#: Backbones that have no weights at all.
WITHOUT_WEIGHTS = frozenset({"null"})
#: Backbones that are nothing without a file: what kind of file.
FROM_FILE: Mapping[str, str] = {"onnx": "an .onnx file, such as `wsi-vmamba onnx` writes"}
#: Between the name of a checkpoint and the name of what to take of it.
CHOICE = "#"


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """The file to load (None: none is loaded), and a line for people about what that means.

    Behind the file may stand ``#NAME``, for one of the state dicts in it. With ``by_timm`` there is no file either:
    timm finds the weights, or downloads them.
    """

    path: Path | None
    note: str
    by_timm: bool = False

    @property
    def source(self) -> Path | Given | None:
        """What `wsi_vmamba.model.build_backbone` is given."""
        return Given.BY_TIMM if self.by_timm else self.path


def resolve_weights(backbone: str, choice: str | Path) -> ResolvedWeights:
    """Resolve ``auto`` (shipped with the backbone), ``random``, a file, or a name of ``wsi-vmamba weights list``.

    Of ``timm:NAME`` and ``hf-hub:ORG/NAME`` ``auto`` is what timm finds: in the cache of the hub, else downloaded.

    A builder of another package may name the file that ``auto`` stands for in its attribute ``auto_weights``.

    Raises:
        UnknownNameError: no such backbone, or no such weights.
        UsageError: ``choice`` is none of the four, nothing is shipped with the backbone, the file does not exist, or
            the weights of that name are of another backbone or not here yet.
        WeightsError: the weights of that name are damaged.
    """
    BACKBONES.check(backbone)
    if not isinstance(choice, str | Path):
        raise UsageError(f"weights are 'auto' (shipped), 'random', a name or a file, got {choice!r}")
    if backbone in WITHOUT_WEIGHTS:
        return ResolvedWeights(path=None, note="it has no weights")
    if choice in WORDS and backbone in FROM_FILE:
        raise UsageError(f"backbone {backbone} is given as a file: --weights FILE, {FROM_FILE[backbone]}")
    if choice == "random":
        return ResolvedWeights(path=None, note="random weights, of no use but for tests and baselines")
    if choice != "auto":
        file, part = split_choice(choice)
        if not file.is_file() and is_name(str(choice)):
            return _named(backbone, str(choice))
        if not file.is_file():
            raise UsageError(
                f"no weights file at {file.absolute()}; give a .safetensors or .pth file, a name of "
                "`wsi-vmamba weights list`, auto or random"
            )
        of = f"{part} of " if part else ""
        return ResolvedWeights(path=Path(choice), note=f"weights from {of}{file}")
    return _automatic(backbone)


def _automatic(backbone: str) -> ResolvedWeights:
    """What ``auto`` stands for."""
    if is_window_name(backbone):
        return ResolvedWeights(path=None, note="weights that timm found", by_timm=True)
    own = getattr(BACKBONES.resolve(backbone), "auto_weights", None)
    if own is not None:
        return ResolvedWeights(path=Path(own), note=f"weights that come with {backbone}")
    if backbone not in SHIPPED:
        where = f", for example model.safetensors of {PUBLISHED[backbone]}" if backbone in PUBLISHED else ""
        published = " or ".join(releases_of(backbone))
        known = f" or the name of published ones (`wsi-vmamba weights add {published}`)" if published else ""
        raise UsageError(
            f"no weights are shipped with {backbone}; give --weights FILE (a published .pth or a .safetensors{where})"
            f"{known}, or --weights random to test the pipeline. Shipped with weights: {', '.join(SHIPPED)}"
        )
    return ResolvedWeights(
        path=FOLDER / SHIPPED[backbone], note="shipped weights, trained on open slides and generated images"
    )


def shipped_files() -> dict[str, Path]:
    """Name -> file of the weights that come with the package."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.safetensors"))}


def named_files() -> dict[str, Path]:
    """Name -> file of all weights that are here: shipped with the package, and imported."""
    return shipped_files() | stored_files()


def _named(backbone: str, name: str) -> ResolvedWeights:
    """Weights by a name of the list, which must be those of the backbone."""
    here = named_files()
    if name not in here and name not in RELEASES:
        raise UnknownNameError("weights", name, (*WORDS, *here, *RELEASES))
    if name not in here:
        raise UsageError(
            f"the weights {name} are published but not on this machine; `wsi-vmamba weights add {name}` downloads them"
        )
    of = read_header(here[name]).get(VARIANT)
    if of != backbone:
        raise UsageError(f"the weights {name} are of {of}, not of {backbone}; give --backbone {of}")
    return ResolvedWeights(path=here[name], note=f"weights {name}")


def split_choice(path: str | Path) -> tuple[Path, str | None]:
    """Part ``file.pth#model_ema`` into the file and what to take of it; None where nothing is named.

    If a file of the whole name exists, it is that file.
    """
    file = Path(path)
    if file.is_file() or CHOICE not in file.name:
        return file, None
    name, _, choice = file.name.rpartition(CHOICE)
    return file.with_name(name), choice
