"""A slide that is seen through another: what it says of itself is what that one says."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from wsi_vmamba.slide.base import Level, Slide
from wsi_vmamba.slide.scenes import Scene


class SlideThrough:
    """The facts of another slide, and its end; pixels are for the class that sees it so."""

    def __init__(self, slide: Slide) -> None:
        """Look through ``slide``; closing this closes it."""
        self._slide = slide

    @property
    def path(self) -> str:
        """As of the slide looked through; so are the properties that follow."""
        return self._slide.path

    @property
    def slide_id(self) -> str:
        """See `Slide`."""
        return self._slide.slide_id

    @property
    def reader(self) -> str:
        """See `Slide`."""
        return self._slide.reader

    @property
    def levels(self) -> tuple[Level, ...]:
        """See `Slide`."""
        return self._slide.levels

    @property
    def mpp(self) -> float | None:
        """See `Slide`."""
        return self._slide.mpp

    @property
    def properties(self) -> Mapping[str, str]:
        """See `Slide`."""
        return self._slide.properties

    @property
    def scene(self) -> Scene:
        """See `Slide`."""
        return self._slide.scene

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """See `Slide`."""
        return self._slide.scenes

    def close(self) -> None:
        """Close the slide looked through."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
