"""VMamba as published, in plain torch: the readable model that the fast encoder is measured against."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.blocks import Block, downsample, patch_embed
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD


class Stage(nn.Module):
    """The blocks of one stage and the downsampling after them."""

    def __init__(self, config: VMambaConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(config, stage) for _ in range(config.depths[stage])))
        self.downsample = downsample(config, stage)


class VMamba(nn.Module):
    """Image classifier and backbone; parameter names are those of the published checkpoints.

    Inputs are images (B, 3, H, W) of any size from `min_side_px` on, normalised by ``mean`` and ``std``.
    A token of the last map stands for ``stride_px`` x ``stride_px`` pixels.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    #: Whether the maps inside blocks are computed again in the backward pass: the same gradients from less memory.
    grad_checkpointing: bool = False

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = patch_embed(config)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        head = OrderedDict(norm=nn.LayerNorm(self.dim), head=nn.Linear(self.dim, config.num_classes))
        self.classifier = nn.Sequential(head)
        self.apply(init_linear)

    @property
    def dim(self) -> int:
        """Channels of the feature map."""
        return self.config.dims[-1]

    @property
    def stride_px(self) -> int:
        """Input pixels per feature-map token, along each axis."""
        return self.config.stride_px

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, 3, H, W) -> logits (B, num_classes)."""
        pooled = self._features_last(x).mean(dim=(1, 2))
        logits: Tensor = self.classifier.get_submodule("head")(pooled)
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Last map after the classifier's norm, (B, C, ~H/stride, ~W/stride)."""
        return self._hand_out(self._features_last(x))

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Output of each stage's blocks, before its downsampling: list of (B, C_i, H_i, W_i)."""
        return [self._hand_out(tokens) for tokens in self._stages(x)]

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> VMamba:
        """Load a VMamba from a repository of the hub, or a folder laid out like one; in evaluation mode.

        Args:
            name_or_folder: ``ORG/NAME`` or a folder with config.json and model.safetensors.
            options: of `huggingface_hub.PyTorchModelHubMixin.from_pretrained`: ``revision``, ``token``, ``cache_dir``,
                ``local_files_only``, ``force_download``.

        Raises:
            UsageError: the extra `hub` is not installed, or config.json is not that of a VMamba.
            WeightsError: the weights do not fill it.
        """
        from wsi_vmamba.model.hub import hub_class

        model: VMamba = hub_class().from_pretrained(name_or_folder, **options)
        return model

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write config.json, model.safetensors and a model card into a folder, for `from_pretrained`.

        Raises:
            UsageError: the extra `hub` is not installed.
        """
        from wsi_vmamba.model.hub import with_hub

        with_hub(self).save_pretrained(folder, **options)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes to ``ORG/NAME``; gives the address of the commit.

        Raises:
            UsageError: the extra `hub` is not installed.
        """
        from wsi_vmamba.model.hub import with_hub

        return str(with_hub(self).push_to_hub(repository, **options))

    def _features_last(self, x: Tensor) -> Tensor:
        normed: Tensor = self.classifier.get_submodule("norm")(self._stages(x)[-1])
        return normed

    def _stages(self, x: Tensor) -> list[Tensor]:
        """As `forward_stages`, channels last."""
        least_px = 4 if self.config.patch_embed == 1 else 1
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < least_px:
            raise UsageError(
                f"expected images (B, 3, H, W) with sides of at least {least_px} px, got {tuple(x.shape)}"
            )
        tokens = self.patch_embed(x)
        outputs: list[Tensor] = []
        for stage in self.layers:
            tokens = self._through(stage.get_submodule("blocks"), tokens)
            outputs.append(tokens)
            tokens = stage.get_submodule("downsample")(tokens)
        return outputs

    def _through(self, blocks: nn.Module, tokens: Tensor) -> Tensor:
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            out: Tensor = blocks(tokens)
            return out
        for block in blocks.children():
            tokens = checkpoint(block, tokens, use_reentrant=False)
        return tokens

    def _hand_out(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, C, H, W) in the memory order the configuration asks for."""
        channels_first = rearrange(tokens, "b h w c -> b c h w")
        return channels_first.contiguous() if self.config.norm_layout == "ln2d" else channels_first


@torch.no_grad()
def init_linear(module: nn.Module) -> None:
    """Published initialisation of linear layers; norms and convolutions keep torch's own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
