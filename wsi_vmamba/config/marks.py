"""How the command line offers a field: markers for ``Annotated`` in the models.

A field without one has the option of its name (``region_px``: ``--region-px``). A nested model has none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """Given by its place on the command line, in the order of the model's fields; not by a name."""

    metavar: str | None = None


class Option:
    """An option with names of its own, the first of which is shown, or with another placeholder for its value."""

    def __init__(self, *names: str, metavar: str | None = None) -> None:
        """Keep the names, all with their two dashes; none stands for the field's own."""
        self.names = names
        self.metavar = metavar


@dataclass(frozen=True)
class SetOnly:
    """Reached by ``--set`` and ``--config`` only: what few people ever change."""


@dataclass(frozen=True)
class Placeholder:
    """What stands for the value in ``--help``, for a type of value (``PATH``), and words to complete."""

    text: str
    words: tuple[str, ...] = ()
