"""VMamba over volumes, in plain torch: the classifier of clips and the encoder of focal stacks."""

from __future__ import annotations

from collections import OrderedDict

from einops import rearrange
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.blocks import ResidualBlock, downsample, patch_embed, scan_sizes
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.vmamba import init_linear
from wsi_vmamba.volume.ss3d import SS3D


class VolumeBlock(ResidualBlock):
    """`ResidualBlock` with an SS3D: maps are (B, T, H, W, d_model)."""

    def __init__(self, config: VMambaConfig, stage: int) -> None:
        super().__init__(config, stage, SS3D(**scan_sizes(config, stage)))


class VolumeStage(nn.Module):
    """The blocks of one stage and the downsampling of each plane after them; planes stay as many."""

    def __init__(self, config: VMambaConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(VolumeBlock(config, stage) for _ in range(config.depths[stage])))
        self.downsample = downsample(config, stage)


class VMamba3D(nn.Module):
    """Classifier and encoder of volumes; parameter names are those of `VMamba`, and ``op.conv_t``.

    Inputs are volumes (B, 3, T, H, W), normalised by ``mean`` and ``std``. A token of the last map stands for
    ``frames_per_token`` x ``stride_px`` x ``stride_px`` of them: the stem takes so many planes together (the patches of
    video networks, 2 x 4 x 4 with two), and nothing after it makes them fewer.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, config: VMambaConfig, *, frames_per_token: int = 1) -> None:
        """Build with random weights.

        Args:
            config: numbers of the two-dimensional network.
            frames_per_token: planes that the stem takes together.

        Raises:
            UsageError: the directions of the configuration share their parameters, or no plane is to be taken.
        """
        if config.share_directions:
            raise UsageError(
                "the six paths of a volume have parameters of their own; share_directions must be false"
            )
        if frames_per_token < 1:
            raise UsageError(f"frames_per_token must be at least 1, got {frames_per_token}")
        super().__init__()
        self.config, self.frames_per_token = config, frames_per_token
        self.patch_embed = _stem(config, frames_per_token)
        self.layers = nn.ModuleList(VolumeStage(config, stage) for stage in range(len(config.depths)))
        head = OrderedDict(norm=nn.LayerNorm(self.dim), head=nn.Linear(self.dim, config.num_classes))
        self.classifier = nn.Sequential(head)
        self.apply(init_linear)

    @property
    def dim(self) -> int:
        """Channels of the feature map."""
        return self.config.dims[-1]

    @property
    def stride_px(self) -> int:
        """Input pixels per feature-map token, along height and width."""
        return self.config.stride_px

    def forward(self, x: Tensor) -> Tensor:
        """Classify volumes (B, 3, T, H, W) -> logits (B, num_classes)."""
        pooled = self._features_last(x).mean(dim=(1, 2, 3))
        logits: Tensor = self.classifier.get_submodule("head")(pooled)
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Last map after the classifier's norm, (B, C, T / frames_per_token, ~H / stride, ~W / stride)."""
        return rearrange(self._features_last(x), "b t h w c -> b c t h w")

    def _features_last(self, x: Tensor) -> Tensor:
        least_px = 4 if self.config.patch_embed == 1 else 1
        if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < 1 or min(x.shape[3:]) < least_px:
            raise UsageError(
                f"expected volumes (B, 3, T, H, W) with sides of at least {least_px} px, got {tuple(x.shape)}"
            )
        if x.shape[2] % self.frames_per_token:
            raise UsageError(f"expected a multiple of {self.frames_per_token} planes, got {x.shape[2]}")
        batch = len(x)
        # Planes that belong together are channels of one picture: plane after plane, each red, green, blue.
        planes = rearrange(x, "b c (t f) h w -> (b t) (f c) h w", f=self.frames_per_token)
        tokens: Tensor = self.patch_embed(planes)
        for stage in self.layers:
            volume = rearrange(tokens, "(b t) h w c -> b t h w c", b=batch)
            volume = stage.get_submodule("blocks")(volume)
            tokens = stage.get_submodule("downsample")(rearrange(volume, "b t h w c -> (b t) h w c"))
        normed: Tensor = self.classifier.get_submodule("norm")(tokens)
        return rearrange(normed, "(b t) h w c -> b t h w c", b=batch)


def _stem(config: VMambaConfig, frames: int) -> nn.Sequential:
    """The stem of `VMamba`, whose first convolution sees so many planes at once."""
    plane = patch_embed(config)
    if frames == 1:
        return plane
    side, stride, border = (4, 4, 0) if config.patch_embed == 1 else (3, 2, 1)
    width = config.dims[0] if config.patch_embed == 1 else config.dims[0] // 2
    return nn.Sequential(nn.Conv2d(3 * frames, width, side, stride=stride, padding=border), *list(plane)[1:])
