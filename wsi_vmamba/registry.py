"""Tables of choices: name -> "module:attribute", imported only when a name is used.

Another package adds to a table by an entry point (ADR 7): group ``wsi_vmamba.<kind>``, the name, "module:attribute".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

from wsi_vmamba.errors import UnknownNameError, UsageError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Names that nobody can list, told by how they begin.

    Attributes:
        target: "module:attribute" that every name of the family stands for.
        check: "module:function" that raises UsageError for a name that is none.
        shown: how such a name looks, for messages and help: "timm:NAME".
    """

    target: str
    check: str
    shown: str


#: Every extension point, by the word used in messages and configuration: where its table lives.
TABLES: Mapping[str, str] = {
    "reader": "wsi_vmamba.slide:READERS",
    "segmenter": "wsi_vmamba.tissue:SEGMENTERS",
    "backbone": "wsi_vmamba.model:BACKBONES",
    "aggregator": "wsi_vmamba.mil:AGGREGATORS",
    "supervision": "wsi_vmamba.mil:SUPERVISIONS",
    "metric": "wsi_vmamba.metrics:METRICS",
    "class metric": "wsi_vmamba.metrics:CLASS_METRICS",
    "lesion metric": "wsi_vmamba.metrics:LESION_METRICS",
    "dataset": "wsi_vmamba.datasets:DATASETS",
    "exporter": "wsi_vmamba.export:EXPORTERS",
    "tile encoder": "wsi_vmamba.probing:TILE_ENCODERS",
    "classifier": "wsi_vmamba.tabular:CLASSIFIERS",
    "objective": "wsi_vmamba.pretraining:OBJECTIVES",
    "heatmap layer": "wsi_vmamba.prediction.heatmaps:LAYERS",
    "heatmap format": "wsi_vmamba.prediction.heatmaps:FORMATS",
    "analysis": "wsi_vmamba.analysis:ANALYSES",
    "public data set": "wsi_vmamba.datasets:REMOTE_DATASETS",
}


def load_attribute(target: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def group_of(kind: str) -> str:
    """The entry-point group in which other packages add to the table of ``kind``: "wsi_vmamba.lesion_metric"."""
    return f"wsi_vmamba.{kind.replace(' ', '_')}"


@dataclass(frozen=True, kw_only=True)
class Addition:
    """An entry that another installed package adds to a table.

    Attributes:
        target: "module:attribute".
        package: name and version of the package.
    """

    target: str
    package: str


@lru_cache(maxsize=1)
def additions() -> Mapping[str, Mapping[str, tuple[Addition, ...]]]:
    """What other packages add: entry-point group -> name -> who adds it. Nothing of theirs is imported."""
    # Looking at all installed packages takes tens of milliseconds, which only those pay who ask a table.
    from importlib.metadata import distributions

    found: dict[str, dict[str, tuple[Addition, ...]]] = {}
    groups = {group_of(kind) for kind in TABLES}
    for distribution in distributions():
        for entry in distribution.entry_points:
            if entry.group in groups:
                new = Addition(target=entry.value, package=f"{distribution.name} {distribution.version}")
                named = found.setdefault(entry.group, {})
                # A package that can be found twice, as beside its own source, is one.
                named[entry.name] = tuple(dict.fromkeys((*named.get(entry.name, ()), new)))
    return found


class Table(Mapping[str, str]):
    """The table of one extension point: its own literal entries, and those of other packages; imported by `resolve`.

    Names of its families are in it too, though iterating does not list them.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, str], *, families: Mapping[str, Family] | None = None
    ) -> None:
        """Keep ``kind`` (the word for messages), the entries, in the order written, and families by their prefix."""
        self.kind = kind
        self._own = dict(entries)
        self._families = dict(families or {})

    @cached_property
    def _added(self) -> Mapping[str, tuple[Addition, ...]]:
        return additions().get(group_of(self.kind), {})

    def __getitem__(self, name: str) -> str:
        family = self._family_of(name)
        if family is not None:
            return family.target
        if name not in self._added:
            return self._own[name]
        first, *others = self._added[name]
        if name in self._own or others:
            owners = [*(["wsi-vmamba itself"] if name in self._own else []), first.package]
            raise UsageError(
                f"{self.kind} {name!r} is offered by {' and by '.join([*owners, *(o.package for o in others)])}; "
                "uninstall one of them, or have it renamed"
            )
        return first.target

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *sorted(self._added)]))

    def __len__(self) -> int:
        return len(dict.fromkeys([*self._own, *self._added]))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added or self._family_of(name) is not None

    def _family_of(self, name: object) -> Family | None:
        """The family of a name; None of a name that is listed, and of one that is nothing."""
        if not isinstance(name, str) or name in self._own or name in self._added:
            return None
        return next((f for prefix, f in self._families.items() if name.startswith(prefix)), None)

    def choices(self) -> tuple[str, ...]:
        """For messages and help: the names, then how those of families look."""
        return (*self, *(family.shown for family in self._families.values()))

    def check(self, name: str) -> str:
        """Return ``name`` if it is in the table.

        Raises:
            UnknownNameError: listing the choices, when it is not.
            UsageError: it begins like the names of a family and goes on otherwise.
        """
        if name not in self:
            raise UnknownNameError(self.kind, name, self.choices())
        family = self._family_of(name)
        if family is not None:
            load_attribute(family.check)(name)
        return name

    def resolve(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            UnknownNameError: it is not in the table; the choices are listed.
            UsageError: more than one package offers it, or the package that does cannot be loaded.
        """
        target = self[self.check(name)]
        if name in self._own or name not in self._added:
            return load_attribute(target)
        try:
            return load_attribute(target)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.kind} {name!r} is {target} of the package {self._added[name][0].package}, which cannot be "
                f"loaded ({error}); mend that package, or uninstall it"
            ) from error


def table(kind: str) -> Table:
    """Return the table of an extension point, for example ``table("reader")``."""
    if kind not in TABLES:
        raise UnknownNameError("extension point", kind, TABLES)
    found: Table = load_attribute(TABLES[kind])
    return found
