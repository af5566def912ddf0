"""`import wsi_vmamba as wv`: what it offers, that it is cheap, and that its three lists of names agree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_vmamba
import wsi_vmamba.pipelines.extract
import wsi_vmamba.store
from wsi_vmamba.registry import load_attribute

SOURCE = Path(wsi_vmamba.__file__)


def typed_names() -> dict[str, str]:
    """Name -> module:attribute of what is imported for type checkers only."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_table_all_dir_and_typing_agree():
    assert typed_names() == wsi_vmamba._EXPORTS
    assert set(wsi_vmamba.__all__) == {*wsi_vmamba._EXPORTS, "__version__"}
    assert wsi_vmamba.__all__ == sorted(wsi_vmamba.__all__)
    assert set(wsi_vmamba.__all__) <= set(dir(wsi_vmamba))


@pytest.mark.parametrize("name", sorted(wsi_vmamba._EXPORTS))
def test_every_name_is_what_the_table_says_and_is_documented(name: str):
    found = getattr(wsi_vmamba, name)
    assert found is load_attribute(wsi_vmamba._EXPORTS[name])
    assert len(found.__doc__) > 40


def test_a_name_that_is_not_offered_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'wsi_vmamba' has no attribute 'embedd'"):
        wsi_vmamba.embedd  # noqa: B018


def test_the_import_loads_nothing_that_is_slow():
    """Modules, not seconds: what takes the time is what is loaded."""
    code = (
        "import sys; before = set(sys.modules); import wsi_vmamba, typing; dir(wsi_vmamba); "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "wsi_vmamba" in loaded
    assert loaded - set(sys.stdlib_module_names) == {"wsi_vmamba"}


def test_looking_a_name_up_does_not_hide_a_room():
    assert wsi_vmamba.open_slide is wsi_vmamba.open_slide
    assert wsi_vmamba.pipelines.extract.run is not wsi_vmamba.extract
    assert wsi_vmamba.store.open_features is wsi_vmamba.open_features
