"""Compiled modules, which an installation without a C++ compiler does not have."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Extension(NamedTuple):
    """A compiled module (None where it is missing), why it is missing, and the instruction sets, best first.

    The instruction sets are those that were compiled in and that this machine offers.
    """

    module: ModuleType | None
    why: str
    instruction_sets: tuple[str, ...]


def load_extension(name: str) -> Extension:
    """Import a compiled module, or say why that is not possible."""
    try:
        module = import_module(name)
    except ImportError as error:
        why = f"the C++ extension cannot be imported ({error}); install with a C++ compiler to get it"
        return Extension(module=None, why=why, instruction_sets=())
    return Extension(module=module, why="", instruction_sets=tuple(module.instruction_sets()))
