"""The classes of a segmentation: their names, their numbers in a label image, and which outlines are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsi_vmamba.annotation import GROUPS, Annotation, Role, read_annotation
from wsi_vmamba.errors import AnnotationError, UsageError

#: What lies outside all outlines, and has the number 0 in label masks: of no class, or not looked at.
Outside = Literal["background", "unknown"]
#: In a label image: nothing is known of this pixel.
UNKNOWN = 255
#: In a label image: outside all classes.
OUTSIDE = 0
#: Names that the outlines of tumour have in public data sets and in QuPath; one class, whatever it is called.
_TUMOUR = frozenset(name for name, role in GROUPS.items() if role is Role.INCLUDED)
#: Names of what is cut out of outlines.
_EXCLUDED = frozenset(name for name, role in GROUPS.items() if role is Role.EXCLUDED)
#: What an outline without a class is called by the readers of annotations.
_NO_CLASS = "none"
_MOST_CLASSES = UNKNOWN - 1


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Names of classes, whose numbers are 1, 2 and so on.

    Attributes:
        names: of the classes.
        outside: what is outside all of them; "background" is told apart like a class, "unknown" teaches nothing.
    """

    names: tuple[str, ...]
    outside: Outside

    def __post_init__(self) -> None:
        folded = [name.strip().casefold() for name in self.names]
        if not folded or "" in folded or len(set(folded)) < len(folded) or len(folded) > _MOST_CLASSES:
            raise UsageError(
                f"expected the names of 1 to {_MOST_CLASSES} classes, each once, got {', '.join(self.names) or 'none'}"
            )
        if self.outside == "unknown" and len(folded) < 2:
            raise UsageError(
                f"with outside unknown there is nothing to tell {self.names[0]} from; name another class, or let what "
                "is outside be background"
            )

    @property
    def first(self) -> int:
        """Number of the first output of a model in a label image."""
        return 0 if self.outside == "background" else 1

    @property
    def outputs(self) -> int:
        """How many classes a model tells apart."""
        return len(self.names) + 1 - self.first

    @property
    def lesion(self) -> int | None:
        """Number of the class that has one of the names of tumour; None where there is none."""
        found = (n for n, name in enumerate(self.names, 1) if name.strip().casefold() in _TUMOUR)
        return next(found, None)

    def name_of(self, number: int) -> str:
        """The name of a number in a label image."""
        return "outside" if number == OUTSIDE else self.names[number - 1]

    def number_of(self, known_as: str) -> int:
        """The number of what an outline is known as."""
        folded = [name.strip().casefold() for name in self.names]
        if known_as in folded:
            return folded.index(known_as) + 1
        assert self.lesion is not None
        return self.lesion

    def read(self, path: Path) -> Annotation:
        """Read outlines: those of the classes, and those that are cut out; of others nothing is known.

        Raises:
            AnnotationError: the file cannot be read, or all its outlines are of other classes or of none.
        """
        return read_annotation(path, groups=self._groups())

    def _groups(self) -> Mapping[str, Role]:
        found = dict.fromkeys((name.strip().casefold() for name in self.names), Role.INCLUDED)
        if self.lesion is not None:
            found = {**dict.fromkeys(_TUMOUR, Role.INCLUDED), **found}
        return {**dict.fromkeys(_EXCLUDED, Role.EXCLUDED), **found}


def classes_of_outlines(paths: Iterable[Path]) -> tuple[str, ...]:
    """The classes that the outlines of some files have, sorted; all that means tumour is one, called tumour.

    Raises:
        AnnotationError: a file cannot be read, an outline has no class, or there is no outline.
    """
    names: dict[str, str] = {}
    for path in paths:
        for outline in read_annotation(path, others=Role.INCLUDED).outlines:
            folded = outline.group.strip().casefold()
            if folded == _NO_CLASS:
                raise AnnotationError(
                    f"{path}: {outline.name} has no class; give it one in QuPath (or a group in ASAP), or name the "
                    "classes with --class, so that other outlines count as unknown"
                )
            if folded not in _EXCLUDED:
                names.setdefault("tumour" if folded in _TUMOUR else folded, outline.group)
    if not names:
        raise AnnotationError("no file has an outline of a class; give --annotations FOLDER, or name classes")
    return tuple("tumour" if key == "tumour" else names[key] for key in sorted(names))
