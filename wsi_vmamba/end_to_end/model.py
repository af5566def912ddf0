"""A backbone and a slide classifier as one model that is trained, and the file of the backbone's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from wsi_vmamba import __version__
from wsi_vmamba.bags import FeatureSource
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.pretraining.weights_file import in_one_order
from wsi_vmamba.training.model import SlideClassifier

#: The file of a run that `extract --weights` takes.
BACKBONE = "backbone.safetensors"


class EndToEndModel(nn.Module):
    """Both parts; features go from one to the other as `LearnedFeatures` has them."""

    def __init__(self, backbone: VMamba, classifier: SlideClassifier) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    @property
    def source(self) -> FeatureSource:
        """The kind of features that the backbone, as it is now, makes for the classifier."""
        source = self.classifier.spec.source
        assert source is not None  # `start` refuses runs without
        return replace(source, weights_hash=weights_hash(self.backbone))


def start(classifier: SlideClassifier, weights: str) -> tuple[EndToEndModel, str]:
    """The model that a run's classifier and the weights behind its features are, and a line on those weights.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights.
        IncompatibleStoreError: the features were made with other weights.
    """
    source = classifier.spec.source
    if source is None:
        raise UsageError(
            "the run does not say what its features were made with; train it again on those of `extract`"
        )
    found = resolve_weights(source.model, weights)
    if found.path is None:
        raise UsageError(f"give the weights that the features of the run were made with, not {weights!r}")
    backbone = build_backbone(source.model, weights=found.path)
    if not isinstance(backbone, VMamba):
        raise UsageError(f"only VMamba backbones are trained through regions, {source.model} is none")
    made = weights_hash(backbone)
    if made != source.weights_hash:
        raise IncompatibleStoreError(
            f"the run's features were made by {source.model} with weights of hash {source.weights_hash[:12]}, "
            f"{found.path} has {made[:12]}; give those weights with --weights"
        )
    return EndToEndModel(backbone, classifier), found.note


def save_backbone(folder: Path, backbone: VMamba, *, name: str) -> None:
    """Write the weights for `extract --weights`."""
    tensors: dict[str, Tensor] = {
        key: tensor.detach().contiguous() for key, tensor in backbone.state_dict().items()
    }
    header = {"format": "pt", "backbone": name, "wsi_vmamba": __version__}
    write_atomic(folder / BACKBONE, in_one_order(safetensors.torch.save(tensors, metadata=header)))
