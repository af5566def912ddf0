"""One slide through slide2vec and hs2p, for `benchmarks/peers.py`, which runs this in the peer's environment.

slide2vec imports torchvision, timm and wandb when it is imported. A tile encoder of one's own uses none of them, but
a few classes that describe a transform by name (`torchvision.transforms.v2`), which slide2vec reads and then applies
by itself with torch. Where a package is missing, those few are made here, and anything else asked of it is an empty
class. The peer starts more quickly for it than it would with all three installed.

Chosen in the peer's favour: no previews; batches of whole super tiles, so that nothing is read twice; no pass over the
pixels for ImageNet's means and deviations, which the encoders here work into their results or do by themselves.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

TILE_PX, MPP = 256, 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Tile and encode the slide; print versions and the reader that was used as one line of JSON."""
    options = _parser().parse_args(arguments)
    stubbed = stub_missing("torchvision", "timm", "wandb")
    backbone, dim = ENCODERS[options.encoder](options.precision)
    run(options, backbone, dim)
    packages = ("slide2vec", "hs2p", "torch", *READER_PACKAGES.get(options.reader, ()))
    print(json.dumps({"versions": {name: version(name) for name in packages}, "stubbed": stubbed}))
    return 0


def run(options: argparse.Namespace, backbone: nn.Module, dim: int) -> None:
    """Do what a user of slide2vec's Python interface does with an encoder of their own."""
    from hs2p import DEFAULT_MASK_SAMPLING, PreviewConfig, TilingConfig
    from slide2vec import (
        ExecutionOptions,
        Model,
        Pipeline,
        PreprocessingConfig,
        TorchTileEncoder,
        register_encoder,
    )
    from torchvision.transforms import v2

    @register_encoder(
        "of-benchmark",
        encode_dim=dim,
        input_size=TILE_PX,
        supports_variable_input_size=False,
        supported_spacing_um=MPP,
        precision="fp32",
    )
    class Encoder(TorchTileEncoder):
        def __init__(self, output_variant: str | None = None) -> None:
            nothing = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
            super().__init__(backbone, encode_dim=dim, input_size=TILE_PX, mean=nothing[0], std=nothing[1])

        def get_normalization_transform(self) -> Callable[..., Any]:
            return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    tiling = TilingConfig(
        requested_spacing_um=MPP,
        requested_tile_size_px=TILE_PX,
        tolerance=0.05,
        overlap=0.0,
        backend=options.reader,
    )
    preview = PreviewConfig(save_mask_preview=False, save_tiling_preview=False)
    execution = ExecutionOptions(
        output_dir=options.out,
        batch_size=options.batch,
        num_workers_per_gpu=options.workers,
        num_preprocessing_workers=max(1, options.workers),
        num_gpus=1,
        precision="fp32",
    )
    # Where both tools get one mask, they also share the threshold of wsi-vmamba; hs2p's own is 0.01.
    masks = replace(DEFAULT_MASK_SAMPLING, min_coverage={"tissue": 0.1 if options.mask else 0.01})
    pipeline = Pipeline(
        model=Model.from_preset("of-benchmark", device="cpu"),
        preprocessing=PreprocessingConfig(
            tiling=tiling, preview=preview, masks=masks, adaptive_batching=True, num_cucim_workers=2
        ),
        execution=execution,
    )
    slide = {"sample_id": "slide", "image_path": str(options.slide), "mask_path": options.mask}
    pipeline.run(slides=[{**slide, "spacing_at_level_0": options.mpp}])


# -- encoders: what the same name means to `wsi-vmamba extract` ---------------------------------------------------


class Colours(nn.Module):
    """The null backbone on whole tiles: mean and mean square of each colour, normalised as ImageNet's are."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Map (B, 3, H, W) in 0 to 1 -> (B, 6)."""
        from wsi_vmamba.model.build import IMAGENET_MEAN, IMAGENET_STD

        # The quickest way torch has: twenty times quicker than `torch.var_mean`.
        colours = tiles.flatten(2)
        mean, square = colours.mean(dim=2), torch.linalg.vector_norm(colours, dim=2) ** 2 / colours.shape[2]
        shift, scale = tiles.new_tensor(IMAGENET_MEAN), tiles.new_tensor(IMAGENET_STD)
        return torch.cat([(mean - shift) / scale, (square - 2 * shift * mean + shift**2) / scale**2], dim=1)


class TileByTile(nn.Module):
    """`vmamba_pico` with the kernels that `wsi-vmamba extract` uses, on each tile alone."""

    def __init__(self, precision: str) -> None:
        """Take the weights that come with the backbone; ``precision`` is that of the kernels."""
        super().__init__()
        from wsi_vmamba.encode import build_encoder

        self.encoder = build_encoder(
            "vmamba_pico",
            precision=precision,
            device="cpu",
        )

    def forward(self, tiles: Tensor) -> Tensor:
        """Map (B, 3, H, W) in 0 to 1 -> (B, D), the mean of each tile's tokens."""
        pixels = (tiles * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.stack([torch.from_numpy(self.encoder.encode(tile)).mean(dim=(0, 1)) for tile in pixels])


def _pico(precision: str) -> tuple[nn.Module, int]:
    backbone = TileByTile(precision)
    return backbone, backbone.encoder.dim


ENCODERS: dict[str, Callable[[str], tuple[nn.Module, int]]] = {
    "null": lambda _: (Colours(), 6),
    "vmamba_pico": _pico,
}
READER_PACKAGES = {
    "cucim": ("cucim-cu12",),
    "vips": ("pyvips", "pyvips-binary"),
    "openslide": ("openslide-python", "openslide-bin"),
}


# -- packages that are not here -----------------------------------------------------------------------------------


class _Stub(ModuleType):
    """A module in which every name is an empty class, taking any arguments."""

    __path__: list[str] = []  # noqa: RUF012 - what makes the import system call it a package

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _ToDtype:
    def __init__(self, dtype: torch.dtype, *, scale: bool) -> None:
        self.dtype, self.scale = dtype, scale


class _Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Stub(spec.name)
        if spec.name == "torchvision.transforms.v2":
            # slide2vec tells transforms apart by the names of their classes.
            module.Compose = type("Compose", (_Compose,), {})  # type: ignore[attr-defined]
            module.ToDtype = type("ToDtype", (_ToDtype,), {})  # type: ignore[attr-defined]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def stub_missing(*packages: str) -> list[str]:
    """Let the packages that are not installed be imported as stubs; return which."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    sys.meta_path.append(_StubFinder(missing))
    if "torchvision" in missing:
        # Imported first, or `from torchvision.transforms import v2` would get an empty class of that name.
        importlib.import_module("torchvision.transforms.v2")
    return missing


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", choices=list(ENCODERS), default="null")
    parser.add_argument("--precision", default="fp32", help="of the kernels of vmamba_pico: fp32, bf16, auto")
    parser.add_argument("--mpp", type=float, help="um per level-0 pixel, instead of what the file records")
    parser.add_argument("--mask", type=Path, help="tissue mask in place of the segmentation of hs2p")
    parser.add_argument("--reader", default="auto", help="hs2p's backend: auto, cucim, vips, openslide")
    parser.add_argument("--workers", type=int, default=0, help="processes that read; 0 reads in the main one")
    parser.add_argument("--batch", type=int, default=64, help="tiles per forward pass")
    return parser


if __name__ == "__main__":
    sys.exit(main())
