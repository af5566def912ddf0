"""Segmentation: a UPerNet head over the four maps of a VMamba, trained on outlines or label masks."""
