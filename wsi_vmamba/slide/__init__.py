"""Whole-slide images behind one protocol; the content of a file decides which reader opens it."""

from __future__ import annotations

from wsi_vmamba.slide.base import Level, Slide
from wsi_vmamba.slide.find import find_slides
from wsi_vmamba.slide.opening import open_slide
from wsi_vmamba.slide.readers import READERS
from wsi_vmamba.slide.resolution import ResolvedMpp, resolve_mpp

__all__ = ["READERS", "Level", "ResolvedMpp", "Slide", "find_slides", "open_slide", "resolve_mpp"]
