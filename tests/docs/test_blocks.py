"""Every shell and Python block of the README and the pages for newcomers is run, word for word, on made slides.

A block is left out only with a reason, in a comment ``<!-- not run: REASON -->`` on the line before it. Other
blocks (tables, output) are not run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/install.md", "docs/tutorial.md", "docs/how-to/volumes.md")
#: Pages of which every block says why it is not run.
PAGES_OF_EXAMPLES = (
    "docs/weights.md",
    "docs/how-to/masks.md",
    "docs/how-to/exports.md",
    "docs/how-to/judging.md",
    "docs/how-to/probing.md",
    "docs/how-to/analysing.md",
    "docs/how-to/predicting.md",
    "docs/how-to/detecting.md",
    "docs/how-to/onnx.md",
    "docs/how-to/encoders.md",
)
SLIDES = "abcdefghij"
#: A page takes half a minute of computing; on a busy machine that is minutes.
SECONDS = 560


@dataclass(frozen=True)
class Block:
    """One fenced block: what it is, where it starts (1 is the first line), and why it is not run, if it is not."""

    language: str
    text: str
    line: int
    reason: str

    @property
    def runs(self) -> bool:
        return self.language in ("sh", "python") and not self.reason


def read_blocks(markdown: str) -> list[Block]:
    blocks = []
    lines = markdown.split("\n")
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        language = lines[start][3:].split(" ")[0]
        reason = re.fullmatch(r"<!-- not run: (.+) -->", lines[start - 1]) if start else None
        text = "\n".join(lines[start + 1 : number])
        blocks.append(Block(language, text, start + 1, reason[1] if reason else ""))
        start = None
    assert start is None, f"the block at line {start} does not end"
    return blocks


def write_slide(path: Path, seed: int) -> None:
    """A pink section of 512 px on glass, at 0.5 um per pixel; slides of odd seeds have a darker corner."""
    generator = np.random.default_rng(seed)
    rgb = np.full((1024, 1024, 3), 242, np.uint8)
    tissue = np.clip(generator.normal((200, 120, 170), 25, (512, 512, 3)), 0, 255)
    if seed % 2:
        tissue[:256, :256] *= 0.55
    rgb[256:768, 256:768] = tissue.astype(np.uint8)
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, 4):
            tif.write(
                rgb[::factor, ::factor], tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None,
                resolution=(20_000 / factor, 20_000 / factor), resolutionunit="CENTIMETER", subfiletype=int(factor > 1),
            )  # fmt: skip


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: slides, one of them as slide.svs, and a table of labels."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "slides").mkdir()
    rows = ["slide_id,path,label,patient_id,split"]
    for seed, name in enumerate(SLIDES):
        write_slide(folder / "slides" / f"{name}.svs", seed)
        rows.append(f"{name},slides/{name}.svs,{seed % 2},patient-{seed},{'test' if seed >= 6 else 'train'}")
    write_slide(folder / "slide.svs", 1)
    (folder / "slides.csv").write_text("\n".join([*rows, ""]))
    return folder


def play(blocks: list[Block], folder: Path) -> None:
    """Run the blocks in ``folder`` in a process of their own, with the commands of this environment."""
    wanted = [{"language": block.language, "text": block.text, "line": block.line} for block in blocks]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MPLBACKEND": "Agg",
    }
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("play_blocks.py"))],
        input=json.dumps(wanted), cwd=folder, env=environment, text=True, timeout=SECONDS, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, slides: Path, tmp_path: Path) -> None:
    blocks = read_blocks((ROOT / page).read_text(encoding="utf-8"))
    for found in slides.iterdir():
        (tmp_path / found.name).symlink_to(found)
    wanted = [block for block in blocks if block.runs]
    assert wanted, f"nothing of {page} is run"
    play(wanted, tmp_path)


@pytest.mark.parametrize("page", [*PAGES, *PAGES_OF_EXAMPLES])
def test_no_block_escapes(page: str) -> None:
    """Blocks have a language, and there are none by indentation, which nobody would run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = read_blocks(text)
    assert {block.language for block in blocks} <= {"sh", "python", "csv"}
    outside = re.sub(r"(?ms)^```.*?^```$", "", text)
    indented = re.findall(r"(?m)^(?<=\n\n) {4}\S.*", outside)
    assert [line for line in indented if "!!!" not in text[: text.index(line)].splitlines()[-1]] == []
    if page in PAGES_OF_EXAMPLES:
        assert all(block.reason for block in blocks if block.language in ("sh", "python"))


def test_the_commands_that_are_not_run_are_targets_of_make() -> None:
    """`make demo` and `make test` are not run, so what they would run is read instead."""
    for page in ("README.md", "docs/install.md"):
        block = read_blocks((ROOT / page).read_text(encoding="utf-8"))[0]
        for line in block.text.splitlines():
            target = line.split("#")[0].split()[1]
            planned = subprocess.run(
                ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert {"demo": "wsi-vmamba demo", "test": "-m pytest"}[target] in planned.stdout


def test_a_block_is_read_with_its_reason() -> None:
    text = "<!-- not run: takes days -->\n```sh\nsleep 9\n```\n\n```python\nx = 1\n```\n```csv\na,b\n```"
    waits, runs, table = read_blocks(text)
    assert (waits.reason, waits.text, waits.line, waits.runs) == ("takes days", "sleep 9", 2, False)
    assert (runs.reason, runs.text, runs.line, runs.runs) == ("", "x = 1", 6, True)
    assert (table.language, table.runs) == ("csv", False)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("sh", "false\necho never", 7, ""), "the sh block at line 7 ended with 1"),
        (Block("python", "x = 1\nassert x == 2", 3, ""), "the python block at line 3 failed"),
    ],
)
def test_a_block_that_fails_fails_the_test(block: Block, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        play([block], tmp_path)
