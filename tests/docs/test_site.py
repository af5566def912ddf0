"""What the site takes from the code, its links, and that nothing of it is loaded over the network."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(src_uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=src_uri))


def test_names_of_pages_and_decisions_become_links(hooks: ModuleType) -> None:
    code = "\n\n    see `docs/faults.md`\n```sh\nADR 6\n```"
    text = "See `docs/faults.md`, `formats.md`, ADR 6 (ADR 99) and `CHANGELOG.md`."
    assert hooks.link_prose(text + code, "how-to/masks.md") == (
        "See [When things go wrong: interrupted runs, damaged slides, hostile files](../faults.md), "
        "[What goes in, what comes out](../formats.md), [ADR 6](../adr/0006-a-journal-of-regions.md) (ADR 99) and "
        "[Changelog](../changelog.md)." + code
    )
    assert (
        hooks.link_prose("see `gone.md` and `formats.md`", "formats.md") == "see `gone.md` and `formats.md`"
    )


def test_the_floors_are_those_of_the_contract(hooks: ModuleType) -> None:
    floors = hooks.floors()
    rooms = [room for floor in floors for room in floor]
    assert (rooms[0], rooms[1], rooms[-1]) == ("cli", "pipelines", "text")
    assert len(rooms) == len(set(rooms))
    table = hooks.floors_table()
    assert f"| {len(floors)} | `cli` | The command line: parse, dispatch, exit codes." in table
    assert table.count("\n") == len(rooms) + 1
    assert hooks.floors_picture().count("<rect") == len(rooms)


def test_extension_tables_are_those_of_the_package(hooks: ModuleType) -> None:
    table = hooks.extension_tables()
    assert "| aggregator | `wsi_vmamba.mil:AGGREGATORS` | `abmil`, `clam_mb`," in table
    assert "| lesion metric | `wsi_vmamba.metrics:LESION_METRICS` | `froc` |" in table


def test_public_names_are_rendered_one_by_one(hooks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('__all__ = ["Embedding", "__version__", "embed", "open_slide"]\n')
    hooks.PACKAGE, package = tmp_path, hooks.PACKAGE
    try:
        assert hooks.public_reference() == (
            "::: wsi_vmamba.embed\n\n::: wsi_vmamba.open_slide\n\n::: wsi_vmamba.Embedding"
        )
    finally:
        hooks.PACKAGE = package


def test_sections_of_the_readme_are_taken_over(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown("<!-- readme: What is not claimed -->", page("index.md"))
    assert text.startswith("- No accuracy of VMamba on CAMELYON16")
    assert text.endswith("It is not a medical device.")
    assert "[Weights](weights.md)" in text
    with pytest.raises(ValueError, match="no section 'Gone'"):
        hooks.on_page_markdown("<!-- readme: Gone -->", page("index.md"))


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/a.js"></script>',
        "<img alt='a' src='//example.org/a.png'>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
    ],
)
def test_a_page_that_loads_something_from_elsewhere_is_refused(hooks: ModuleType, tag: str) -> None:
    with pytest.raises(ValueError, match=r"index\.md would load something over the network: <"):
        hooks.on_post_page(f"<p>a</p>{tag}", page("index.md"))


def test_links_for_people_are_no_loading(hooks: ModuleType) -> None:
    text = '<a href="https://example.org">a</a><img src="a.png"><link rel="canonical" href="https://example.org/a">'
    assert hooks.on_post_page(text, page("index.md")) == text


def test_every_page_is_in_the_contents() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(entry: object) -> list[str]:
        if isinstance(entry, dict):
            return [found for value in entry.values() for found in pages(value)]
        return (
            [found for value in entry for found in pages(value)] if isinstance(entry, list) else [str(entry)]
        )

    listed = pages(nav)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(name for name in written if not name.startswith("adr/"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_files_at_the_top_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
