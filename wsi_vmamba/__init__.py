"""wsi-vmamba: whole-slide pathology with a VMamba backbone.

    import wsi_vmamba as wv

    f = wv.embed("slide.svs")                # features, coordinates and tissue of one slide, in memory
    wv.extract("slides/", out="features")    # many slides to feature files
    wv.open_features("features/slide.zarr")  # a feature file
    wv.open_slide("slide.svs")               # a slide

    run = wv.train(dataset="csv", manifest="slides.csv", features="features")
    run.evaluate().auc                       # of the held-out slides; also wv.evaluate(scores="scores.csv", ...)
    run.predict("new.svs").decision          # of a slide without a label; also wv.predict("model.wsivm", "new.svs")

    wv.train_segmenter("slides.csv")         # outlines of areas to a segmenter; wv.segment("segmenter", "slides/")
    wv.train_detector("nuclei")              # outlined objects to a detector; wv.detect("detector", "slides/")

    wv.make_report(run, out="report.html")   # one HTML file; also of a probe, features or predictions

Importing the package is cheap: it loads no torch, opens no file and probes no device. What it offers is loaded when it
is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# For type checkers and editors; a test holds these lines, the table and __all__ together.
if TYPE_CHECKING:
    from wsi_vmamba.analysis.front import analyse
    from wsi_vmamba.detection.front import Detections, OpenDetector, detect, load_detector, train_detector
    from wsi_vmamba.evaluation.compare import Comparison
    from wsi_vmamba.evaluation.front import Run, compare, evaluate, open_run, train
    from wsi_vmamba.evaluation.results import Evaluation
    from wsi_vmamba.extraction.embedding import Embedding
    from wsi_vmamba.extraction.front import embed, extract
    from wsi_vmamba.extraction.summary import Outcomes
    from wsi_vmamba.gradients.region import region_features
    from wsi_vmamba.html_report.front import make_report
    from wsi_vmamba.html_report.page import HtmlReport
    from wsi_vmamba.onnx_file.front import OnnxFile, export_onnx
    from wsi_vmamba.prediction.front import Predictions, predict, predict_all
    from wsi_vmamba.prediction.slide_prediction import SlidePrediction
    from wsi_vmamba.pretraining.front import Pretraining, pretrain
    from wsi_vmamba.probing.front import probe
    from wsi_vmamba.probing.saved import load_probe
    from wsi_vmamba.segmentation.front import (
        OpenSegmenter,
        Segmentation,
        load_segmenter,
        segment,
        train_segmenter,
    )
    from wsi_vmamba.slide import open_slide
    from wsi_vmamba.store import FeatureFile, open_features
    from wsi_vmamba.volume.classify import ClipClassifier, load_clip_classifier

#: Name -> "module:attribute", imported when the name is first used.
_EXPORTS = {
    # slides
    "open_slide": "wsi_vmamba.slide:open_slide",
    # features
    "Embedding": "wsi_vmamba.extraction.embedding:Embedding",
    "FeatureFile": "wsi_vmamba.store:FeatureFile",
    "Outcomes": "wsi_vmamba.extraction.summary:Outcomes",
    "embed": "wsi_vmamba.extraction.front:embed",
    "extract": "wsi_vmamba.extraction.front:extract",
    "open_features": "wsi_vmamba.store:open_features",
    # training and evaluation
    "Comparison": "wsi_vmamba.evaluation.compare:Comparison",
    "Evaluation": "wsi_vmamba.evaluation.results:Evaluation",
    "Run": "wsi_vmamba.evaluation.front:Run",
    "compare": "wsi_vmamba.evaluation.front:compare",
    "evaluate": "wsi_vmamba.evaluation.front:evaluate",
    "open_run": "wsi_vmamba.evaluation.front:open_run",
    "train": "wsi_vmamba.evaluation.front:train",
    # encoders
    "analyse": "wsi_vmamba.analysis.front:analyse",
    "load_probe": "wsi_vmamba.probing.saved:load_probe",
    "Pretraining": "wsi_vmamba.pretraining.front:Pretraining",
    "pretrain": "wsi_vmamba.pretraining.front:pretrain",
    "probe": "wsi_vmamba.probing.front:probe",
    # training through pixels
    "region_features": "wsi_vmamba.gradients.region:region_features",
    # detection
    "Detections": "wsi_vmamba.detection.front:Detections",
    "OpenDetector": "wsi_vmamba.detection.front:OpenDetector",
    "detect": "wsi_vmamba.detection.front:detect",
    "load_detector": "wsi_vmamba.detection.front:load_detector",
    "train_detector": "wsi_vmamba.detection.front:train_detector",
    # other runtimes
    "OnnxFile": "wsi_vmamba.onnx_file.front:OnnxFile",
    "export_onnx": "wsi_vmamba.onnx_file.front:export_onnx",
    # video
    "ClipClassifier": "wsi_vmamba.volume.classify:ClipClassifier",
    "load_clip_classifier": "wsi_vmamba.volume.classify:load_clip_classifier",
    # new slides
    "Predictions": "wsi_vmamba.prediction.front:Predictions",
    "SlidePrediction": "wsi_vmamba.prediction.slide_prediction:SlidePrediction",
    "predict": "wsi_vmamba.prediction.front:predict",
    "predict_all": "wsi_vmamba.prediction.front:predict_all",
    # segmentation
    "OpenSegmenter": "wsi_vmamba.segmentation.front:OpenSegmenter",
    "Segmentation": "wsi_vmamba.segmentation.front:Segmentation",
    "load_segmenter": "wsi_vmamba.segmentation.front:load_segmenter",
    "segment": "wsi_vmamba.segmentation.front:segment",
    "train_segmenter": "wsi_vmamba.segmentation.front:train_segmenter",
    # reports
    "HtmlReport": "wsi_vmamba.html_report.page:HtmlReport",
    "make_report": "wsi_vmamba.html_report.front:make_report",
}

__all__ = [
    "ClipClassifier",
    "Comparison",
    "Detections",
    "Embedding",
    "Evaluation",
    "FeatureFile",
    "HtmlReport",
    "OnnxFile",
    "OpenDetector",
    "OpenSegmenter",
    "Outcomes",
    "Predictions",
    "Pretraining",
    "Run",
    "Segmentation",
    "SlidePrediction",
    "__version__",
    "analyse",
    "compare",
    "detect",
    "embed",
    "evaluate",
    "export_onnx",
    "extract",
    "load_clip_classifier",
    "load_detector",
    "load_probe",
    "load_segmenter",
    "make_report",
    "open_features",
    "open_run",
    "open_slide",
    "predict",
    "predict_all",
    "pretrain",
    "probe",
    "region_features",
    "segment",
    "train",
    "train_detector",
    "train_segmenter",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wsi_vmamba.registry import load_attribute

    found = load_attribute(_EXPORTS[name])
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
