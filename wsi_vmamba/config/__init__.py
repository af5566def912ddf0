"""The settings of every command, and the only place where they are written down: one pydantic model a command.

Options of the command line with their help, ``configs/*.yaml`` and the reference pages are made from these models. A
field's docstring says what it means, its default stands beside it, its markers (`wsi_vmamba.config.marks`) say how the
command line offers it. Order of precedence, weakest first: defaults, the file of ``--config``, ``--set``, options.

Importing this loads no model; each is loaded when it is asked for, so that ``--help`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsi_vmamba.config.commands import COMMANDS

if TYPE_CHECKING:
    from wsi_vmamba.config.analyse import AnalyseConfig
    from wsi_vmamba.config.base import RunConfig, default_of
    from wsi_vmamba.config.demo import DemoConfig
    from wsi_vmamba.config.detect import DetectConfig
    from wsi_vmamba.config.doctor import DoctorConfig
    from wsi_vmamba.config.endtoend import EndToEndConfig
    from wsi_vmamba.config.evaluate import EvaluateConfig
    from wsi_vmamba.config.export import ExportConfig
    from wsi_vmamba.config.extract import ExtractConfig, InfoConfig, PlanConfig
    from wsi_vmamba.config.finetune import FinetuneConfig
    from wsi_vmamba.config.heatmap import HeatmapConfig
    from wsi_vmamba.config.onnx import OnnxConfig
    from wsi_vmamba.config.otsu import OtsuSettings
    from wsi_vmamba.config.pack import PackConfig
    from wsi_vmamba.config.predict import PredictConfig
    from wsi_vmamba.config.pretrain import PretrainConfig
    from wsi_vmamba.config.probe import ProbeConfig
    from wsi_vmamba.config.public_data import CheckConfig, DownloadConfig
    from wsi_vmamba.config.report import ReportConfig
    from wsi_vmamba.config.resolve import dump_config, keyword_config, resolve_config, show_settings
    from wsi_vmamba.config.segment import SegmentConfig
    from wsi_vmamba.config.shard import parse_shard
    from wsi_vmamba.config.show import ShowConfig
    from wsi_vmamba.config.synth import SynthConfig
    from wsi_vmamba.config.train import TrainConfig
    from wsi_vmamba.config.train_detector import TrainDetectorConfig
    from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
    from wsi_vmamba.config.view import ViewConfig
    from wsi_vmamba.config.weights import WeightsConfig

__all__ = [
    "COMMANDS",
    "AnalyseConfig",
    "CheckConfig",
    "DemoConfig",
    "DetectConfig",
    "DoctorConfig",
    "DownloadConfig",
    "EndToEndConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExtractConfig",
    "FinetuneConfig",
    "HeatmapConfig",
    "InfoConfig",
    "OnnxConfig",
    "OtsuSettings",
    "PackConfig",
    "PlanConfig",
    "PredictConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ReportConfig",
    "RunConfig",
    "SegmentConfig",
    "ShowConfig",
    "SynthConfig",
    "TrainConfig",
    "TrainDetectorConfig",
    "TrainSegmenterConfig",
    "ViewConfig",
    "WeightsConfig",
    "default_of",
    "dump_config",
    "keyword_config",
    "parse_shard",
    "resolve_config",
    "show_settings",
]

#: Where the names are that belong to no command; the models' own places are in COMMANDS.
_HOMES = {
    "RunConfig": "base",
    "default_of": "base",
    "PlanConfig": "extract",
    "OtsuSettings": "otsu",
    "parse_shard": "shard",
    "dump_config": "resolve",
    "keyword_config": "resolve",
    "show_settings": "resolve",
    "resolve_config": "resolve",
}


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name)
    if module is not None:
        return getattr(import_module(f"{__name__}.{module}"), name)
    for command in COMMANDS.values():
        if command.model.endswith(f":{name}"):
            return command.load_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
