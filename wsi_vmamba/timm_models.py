"""Every VMamba as a model of timm: after ``import wsi_vmamba.timm_models``, `timm.create_model` knows their names.

    import timm, wsi_vmamba.timm_models
    timm.create_model("vmamba_tiny_s1l8", features_only=True)   # four maps, strides 4 to 32
    timm.create_model("vmamba_pico", pretrained=True)           # with the weights that are shipped

It needs the extra `timm`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.containers import find_state
from wsi_vmamba.model.key_names import todays_names
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.releases import RELEASES, releases_of
from wsi_vmamba.model.shipped import FOLDER, SHIPPED
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import classes_in, read_state, without_wrappers

_CLASSES = 1000


class TimmVMamba(VMamba):
    """A VMamba with what timm asks of a model; parameter names are those of the checkpoints."""

    def __init__(
        self,
        config: VMambaConfig,
        *,
        num_classes: int = _CLASSES,
        in_chans: int = 3,
        global_pool: Literal["avg", ""] = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build it; ``num_classes`` 0 leaves the head out."""
        if in_chans != 3:
            raise UsageError(f"a VMamba takes RGB, got in_chans={in_chans}")
        super().__init__(config.with_classes(num_classes or 1))
        for block, rate in self._rates(drop_path_rate):
            block.drop_path_rate = rate
        self.num_features = self.head_hidden_size = self.dim
        self.global_pool, self.drop_rate = global_pool, drop_rate
        self.feature_info = [
            {"num_chs": channels, "reduction": 4 * 2**stage, "module": f"layers.{stage}"}
            for stage, channels in enumerate(config.dims)
        ]
        self.reset_classifier(num_classes)

    def _rates(self, last: float) -> list[tuple[Any, float]]:
        """Every block with its drop rate, rising to ``last``."""
        blocks = [block for stage in self.layers for block in stage.get_submodule("blocks").children()]
        return list(zip(blocks, torch.linspace(0, last, len(blocks)).tolist(), strict=True))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.classifier.get_submodule("head")

    def reset_classifier(self, num_classes: int, global_pool: Literal["avg", ""] | None = None) -> None:
        """Put a new head in; 0 leaves it out."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        if num_classes == 0:
            self.classifier.head = nn.Identity()
        elif getattr(self.get_classifier(), "out_features", None) != num_classes:
            self.classifier.head = nn.Linear(self.dim, num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the maps inside blocks again in the backward pass, which then needs little memory."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters of the scan that are not to be shrunk."""
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in ("A_logs", "Ds")}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool maps (B, C, H, W) and classify them."""
        pooled = x.mean(dim=(2, 3)) if self.global_pool == "avg" else x
        if pre_logits or self.num_classes == 0 or not self.global_pool:
            return pooled
        dropped = nn.functional.dropout(pooled, self.drop_rate, training=self.training)
        logits: Tensor = self.get_classifier()(dropped)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, num_classes); features (B, C) without a head."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of stages, as timm asks for them: of all, of the last ``indices``, or of those that are named."""
        if output_fmt != "NCHW":
            raise UsageError(f"maps are NCHW, got output_fmt={output_fmt!r}")
        n_stages = len(self.config.dims)
        wanted = _stages(indices, n_stages)
        maps = self.forward_stages(x)
        last = self._hand_out(self.classifier.get_submodule("norm")(maps[-1].permute(0, 2, 3, 1)))
        found = [last if norm and stage == n_stages - 1 else maps[stage] for stage in wanted]
        return found if intermediates_only else (last, found)


def _stages(indices: int | Sequence[int] | None, n_stages: int) -> list[int]:
    if indices is None:
        return list(range(n_stages))
    asked = range(n_stages - indices, n_stages) if isinstance(indices, int) else indices
    if any(not -n_stages <= index < n_stages for index in asked):
        raise UsageError(f"a VMamba has {n_stages} stages, got out_indices {list(asked)}")
    return [index % n_stages for index in asked]


def _filter(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of any release under today's names."""
    return todays_names(without_wrappers(find_state(state, source="the checkpoint"), source="the checkpoint"))


def _config(name: str) -> dict[str, Any]:
    """What timm is told of the weights of a variant."""
    found: dict[str, Any] = {
        "input_size": (3, 224, 224), "pool_size": (7, 7), "num_classes": _CLASSES, "interpolation": "bicubic",
        "crop_pct": 0.9, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "first_conv": "patch_embed.0",
        "classifier": "classifier.head",
    }  # fmt: skip
    if name in SHIPPED:
        file = FOLDER / SHIPPED[name]
        return {
            **found,
            "file": str(file),
            "num_classes": classes_in(read_state(file)),
            "license": "apache-2.0",
        }
    published = releases_of(name)
    return {**found, "url": RELEASES[published[0]].url, "license": "mit"} if published else found


#: What timm reads when a model is registered: name -> what is known of its weights.
default_cfgs = generate_default_cfgs({f"{name}": _config(name) for name in VARIANTS})
__all__ = ["TimmVMamba", "default_cfgs"]


def _entry(name: str) -> Callable[..., nn.Module]:
    """What `timm.create_model` calls for a variant."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            TimmVMamba,
            name,
            pretrained,
            model_cfg=None,
            pretrained_filter_fn=_filter,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            config=VARIANTS[name],
            **options,
        )
        return model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Build {name}; see `timm.create_model`."
    registered: Callable[..., nn.Module] = register_model(create)
    return registered


globals().update({name: _entry(name) for name in VARIANTS})
