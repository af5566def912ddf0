"""What segmenters and detectors share: the file of a model, training in rounds, slides one by one, their outlines."""
