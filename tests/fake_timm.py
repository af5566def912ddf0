"""A stand-in for timm: small models whose features are known, and a `create_model` that notes what it is asked."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

CONFIG = {
    "architecture": "fake_vit",
    "tag": "in1k",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.5, 1.0),
    "input_size": (3, 32, 32),
    "interpolation": "bilinear",
    "classifier": "head",
}


class FakeViT(nn.Module):
    """Tokens: class (mean colour times `scale`), registers (poison), then the mean colours of the four quarters."""

    def __init__(
        self, *, pool: str = "token", registers: int = 2, class_token: bool = True, **config
    ) -> None:
        super().__init__()
        self.pretrained_cfg = {**CONFIG, **config}
        self.scale = nn.Parameter(torch.ones(3))
        nn.init.uniform_(self.scale, 1, 2)
        self.cls_token = nn.Parameter(torch.zeros(1)) if class_token else None
        self.global_pool = pool
        self.num_prefix_tokens = int(class_token) + registers
        self.registers = registers
        self.seen: list[tuple[int, ...]] = []

    def forward_features(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        first = [x.mean(dim=(2, 3))[:, None] * self.scale] if self.cls_token is not None else []
        poison = x.new_full((len(x), self.registers, 3), 1e6)
        half = x.shape[-1] // 2
        quarters = x.unfold(2, half, half).unfold(3, half, half).mean(dim=(4, 5)).flatten(2).transpose(1, 2)
        return torch.cat([*first, poison, quarters * 10], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.forward_features(x)
        if self.global_pool == "token":
            return tokens[:, 0]
        if self.global_pool == "avg":
            return tokens[:, self.num_prefix_tokens :].mean(dim=1)
        return tokens


def fake_timm(
    model=FakeViT, *, error: BaseException | None = None, version: str = "9.8.7", **options
) -> ModuleType:
    """The module: ``asked`` of its `create_model`, ``made`` by it, and the ``state`` that pretrained weights hold."""
    module = ModuleType("timm")
    module.__version__ = version
    module.asked, module.made, module.state = [], [], None
    module.layers = SimpleNamespace(SwiGLUPacked="the layer SwiGLUPacked")
    module.list_models = lambda: ["resnet50", "vit_tiny_patch16_224", "vit_small_patch16_224"]

    def create_model(name, *, pretrained, **arguments):
        module.asked.append((name, pretrained, arguments))
        if error is not None:
            raise error
        overlay = arguments.get("pretrained_cfg_overlay", {})
        made = model(**{**options, **overlay})
        module.made.append(made)
        if pretrained and module.state is not None:
            made.load_state_dict(module.state, strict=False)  # as timm does where it takes off a head
        return made

    module.create_model = create_model
    return module
