"""Tables of choices: name -> "module:attribute", imported only when a name is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from wsi_vmamba.errors import UnknownNameError

#: Every extension point, by the word used in messages and configuration: where its table lives.
TABLES: Mapping[str, str] = {
    "reader": "wsi_vmamba.slide:READERS",
    "segmenter": "wsi_vmamba.tissue:SEGMENTERS",
    "backbone": "wsi_vmamba.model:BACKBONES",
    "aggregator": "wsi_vmamba.mil:AGGREGATORS",
    "supervision": "wsi_vmamba.mil:SUPERVISIONS",
    "metric": "wsi_vmamba.metrics:METRICS",
    "lesion metric": "wsi_vmamba.metrics:LESION_METRICS",
    "dataset": "wsi_vmamba.datasets:DATASETS",
    "exporter": "wsi_vmamba.export:EXPORTERS",
    "classifier": "wsi_vmamba.tabular:CLASSIFIERS",
    "public data set": "wsi_vmamba.datasets:REMOTE_DATASETS",
}


def load_attribute(target: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


class Table(Mapping[str, str]):
    """A literal table of one extension point; entries are imported lazily by `resolve`."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        """Keep ``kind`` (the word for messages) and the entries, in the order written."""
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str) -> str:
        """Return ``name`` if it is in the table.

        Raises:
            UnknownNameError: listing the choices, when it is not.
        """
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return name

    def resolve(self, name: str) -> Any:
        """Import and return what ``name`` stands for; unknown names are refused by listing the choices."""
        return load_attribute(self._entries[self.check(name)])


def table(kind: str) -> Table:
    """Return the table of an extension point, for example ``table("reader")``."""
    if kind not in TABLES:
        raise UnknownNameError("extension point", kind, TABLES)
    found: Table = load_attribute(TABLES[kind])
    return found
