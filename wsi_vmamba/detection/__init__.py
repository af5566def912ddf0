"""Detection: objects with boxes, masks and classes, by FPN and Mask R-CNN over the four maps of a VMamba.

The detector is torchvision's, which only the extra `detection` installs; data, average precision, windows and files
need nothing of it.
"""
