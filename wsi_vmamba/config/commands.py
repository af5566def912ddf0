"""The commands of the program: one line each.

The recipe of a command is ``wsi_vmamba.pipelines.<name>:run``, with an underscore for a hyphen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_vmamba.registry import load_attribute

if TYPE_CHECKING:
    from wsi_vmamba.config.base import RunConfig


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        model: its settings, as "module:class".
        group: heading in ``wsi-vmamba --help``.
        summary: what it does, in one line.
    """

    model: str
    group: str
    summary: str

    def load_model(self) -> type[RunConfig]:
        """Import and return the model of its settings."""
        found: type[RunConfig] = load_attribute(self.model)
        return found


_FEATURES, _TRAIN, _DATA, _TRY = "Slides and features", "Training and judging", "Public data", "First steps"

COMMANDS: Mapping[str, Command] = {
    "extract": Command(
        "wsi_vmamba.config.extract:ExtractConfig",
        _FEATURES,
        "Extract features: slides in, one feature file per slide out.",
    ),
    "info": Command(
        "wsi_vmamba.config.extract:InfoConfig",
        _FEATURES,
        "Describe a slide: format, size, levels, mpp, tissue share and planned regions.",
    ),
    "show": Command(
        "wsi_vmamba.config.show:ShowConfig",
        _FEATURES,
        "Describe a feature file and draw its principal components over the slide.",
    ),
    "view": Command(
        "wsi_vmamba.config.view:ViewConfig",
        _FEATURES,
        "Look at slides, features and runs in the browser.",
    ),
    "report": Command(
        "wsi_vmamba.config.report:ReportConfig",
        _TRAIN,
        "Write one HTML file on a run, a probe, an extraction or predictions: figures, tables, slides, provenance.",
    ),
    "export": Command(
        "wsi_vmamba.config.export:ExportConfig",
        _FEATURES,
        "Export features to the layout of another tool: TRIDENT, CLAM, STAMP, AnnData, QuPath GeoJSON.",
    ),
    "weights": Command(
        "wsi_vmamba.config.weights:WeightsConfig",
        _FEATURES,
        "List, import and verify weights: shipped, published, your own checkpoints.",
    ),
    "onnx": Command(
        "wsi_vmamba.config.onnx:OnnxConfig",
        _FEATURES,
        "Write a VMamba as an ONNX file of standard operators, and say how far it is from torch.",
    ),
    "train": Command(
        "wsi_vmamba.config.train:TrainConfig", _TRAIN, "Train a slide classifier on extracted features."
    ),
    "evaluate": Command(
        "wsi_vmamba.config.evaluate:EvaluateConfig",
        _TRAIN,
        "Evaluate a trained run on its held-out slides, or scores and detections made elsewhere.",
    ),
    "predict": Command(
        "wsi_vmamba.config.predict:PredictConfig",
        _TRAIN,
        "Predict new slides, which need no labels, with a trained run: probabilities, decisions, heatmaps.",
    ),
    "heatmap": Command(
        "wsi_vmamba.config.heatmap:HeatmapConfig",
        _TRAIN,
        "Write what a model says of patches as PNG, pyramidal OME-TIFF, GeoJSON for QuPath or CSV.",
    ),
    "pack": Command(
        "wsi_vmamba.config.pack:PackConfig",
        _TRAIN,
        "Pack a trained run into one file that predicts on a machine that has nothing else.",
    ),
    "finetune": Command(
        "wsi_vmamba.config.finetune:FinetuneConfig",
        _TRAIN,
        "Fine-tune a backbone on labelled tiles; the weights are for extract --weights.",
    ),
    "endtoend": Command(
        "wsi_vmamba.config.endtoend:EndToEndConfig",
        _TRAIN,
        "Train a run's backbone too, on labels of slides, through the pixels of whole regions.",
    ),
    "train-detector": Command(
        "wsi_vmamba.config.train_detector:TrainDetectorConfig",
        _TRAIN,
        "Train a detector of outlined objects (FPN and Mask R-CNN over a VMamba) on a data set in COCO's format.",
    ),
    "detect": Command(
        "wsi_vmamba.config.detect:DetectConfig",
        _TRAIN,
        "Find the objects of slides with a detector: GeoJSON for QuPath, and counts.",
    ),
    "pretrain": Command(
        "wsi_vmamba.config.pretrain:PretrainConfig",
        _TRAIN,
        "Pretrain a backbone on slides without labels; the weights are for extract --weights.",
    ),
    "train-segmenter": Command(
        "wsi_vmamba.config.train_segmenter:TrainSegmenterConfig",
        _TRAIN,
        "Train a segmenter on outlines or label masks: a UPerNet head on a VMamba.",
    ),
    "segment": Command(
        "wsi_vmamba.config.segment:SegmentConfig",
        _TRAIN,
        "Segment slides: outlines for QuPath, label images as OME-TIFF; Dice, IoU and FROC where the truth is known.",
    ),
    "probe": Command(
        "wsi_vmamba.config.probe:ProbeConfig",
        _TRAIN,
        "Judge encoders on labelled tiles: linear probe and nearest neighbours, several side by side.",
    ),
    "analyse": Command(
        "wsi_vmamba.config.analyse:AnalyseConfig",
        _TRAIN,
        "Look inside a VMamba: receptive field, scans of a token, directions taken away, oriented textures.",
    ),
    "download": Command(
        "wsi_vmamba.config.public_data:DownloadConfig",
        _DATA,
        "Download a public data set; an interrupted download goes on where it stopped.",
    ),
    "check": Command(
        "wsi_vmamba.config.public_data:CheckConfig",
        _DATA,
        "Report missing, extra and damaged files of a public data set.",
    ),
    "demo": Command(
        "wsi_vmamba.config.demo:DemoConfig",
        _TRY,
        "See the whole product work on a generated cohort, on the CPU, in minutes.",
    ),
    "synth": Command(
        "wsi_vmamba.config.synth:SynthConfig",
        _TRY,
        "Paint a cohort of slides with a known answer: lymph nodes, or the same patches arranged in two ways.",
    ),
    "doctor": Command(
        "wsi_vmamba.config.doctor:DoctorConfig",
        _TRY,
        "Check the installation: versions, CPU features, the active kernel and why, GPU, optional extras.",
    ),
}
