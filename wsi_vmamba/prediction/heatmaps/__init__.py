"""What a model says of patches as files that other tools open, every one placed by the same level-0 rectangles."""

from wsi_vmamba.registry import Table

#: Every value of a patch that a heatmap may show; an entry is a `Layer`. The first that a model has is the default.
LAYERS = Table(
    "heatmap layer",
    {
        "probability": "wsi_vmamba.prediction.heatmaps.layers:PROBABILITY",
        "attention": "wsi_vmamba.prediction.heatmaps.layers:ATTENTION",
    },
)

#: Every kind of file that a heatmap is written as; an entry is a `Format`.
FORMATS = Table(
    "heatmap format",
    {
        "png": "wsi_vmamba.prediction.heatmaps.png:PNG",
        "ometiff": "wsi_vmamba.prediction.heatmaps.ometiff:OME_TIFF",
        "geojson": "wsi_vmamba.prediction.heatmaps.geojson:GEOJSON",
        "csv": "wsi_vmamba.prediction.heatmaps.patch_csv:CSV",
    },
)

__all__ = ["FORMATS", "LAYERS"]
