"""Pretraining of a backbone, straight from slides."""
