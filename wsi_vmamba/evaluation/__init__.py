"""What a trained run, or a file of scores or detections, is worth: metrics, tables, figures, comparisons.

Nothing here prints; recipes in `pipelines/` do. `wsi_vmamba.train`, `open_run` and `evaluate` lead here from Python.
Importing this room is cheap: judging files never waits for torch.
"""
