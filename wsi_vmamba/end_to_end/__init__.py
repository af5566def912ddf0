"""Backbone and aggregator trained together on labels of slides, through the pixels of whole regions.

It goes on from a run of `train`: slides, labels, split and aggregator are those of the run; regions and patches are
those of its features.
"""
