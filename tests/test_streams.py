"""Standard output and error that cannot be written lose text, and nothing else; odd names are shown as escapes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wsi_vmamba.text import name_problem, printable

#: Says more than a buffer or pipe holds, in the end that it came so far.
TALK = """
import sys
from wsi_vmamba import console
from wsi_vmamba.streams import guard_streams
guard_streams()
guard_streams()
for index in range(int(sys.argv[2])):
    console.say(f"line {index} sl\\udce9 \\u03a9")
console.print_table("title", ("a", "b"), [("x\\ty", "l1\\nl2")])
print("came through", file=open(sys.argv[1], "w"))
"""


def talk(
    end: Path, *, lines: int = 1, shell: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", TALK, str(end), str(lines)]
    if shell:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    return subprocess.run(
        command, capture_output=True, check=False, timeout=60, env={**os.environ, **environment}
    )


def test_names_are_shown_as_escapes_in_every_encoding(tmp_path: Path):
    said = talk(tmp_path / "end").stdout.decode()
    assert said == "line 0 sl\\xe9 \u03a9\ntitle\na\tb\nx\\x09y\tl1\\x0al2\n"
    said = talk(tmp_path / "end", PYTHONIOENCODING="ascii").stdout.decode()
    assert said.startswith("line 0 sl\\xe9 \\u03a9\n")


@pytest.mark.parametrize(
    "shell", [">/dev/full", "| head -c 9", ">/dev/full 2>/dev/full", ">&-", "<&- >&- 2>&-"]
)
def test_output_that_cannot_be_written_ends_nothing(shell: str, tmp_path: Path):
    ran = talk(tmp_path / "end", lines=5000, shell=shell)
    assert (tmp_path / "end").read_text() == "came through\n"
    assert ran.returncode == 0
    if shell in (">/dev/full", "| head -c 9"):
        assert b"warning: standard output cannot be written any more (" in ran.stderr
        assert ran.stderr.count(b"warning") == 1
    else:
        assert ran.stderr == b""


def test_a_file_never_gets_the_number_of_a_closed_standard_stream(tmp_path: Path):
    """Else what a library prints to descriptor 1 would stand in the next file that is opened."""
    code = """
import os, sys
from wsi_vmamba.streams import guard_streams
guard_streams()
with open(sys.argv[1], "wb") as file:
    os.write(1, b"from a library in C")
    os.write(2, b"from a library in C")
    file.write(b"features")
"""
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code, str(tmp_path / "file")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"features"


@pytest.mark.slow
def test_a_full_pipe_that_does_not_block_is_waited_for(tmp_path: Path):
    """Node and some schedulers make the pipe they share with us non-blocking; Python then raises BlockingIOError."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    found = bytearray()

    def read_slowly() -> None:
        time.sleep(1)
        while piece := os.read(read_end, 65536):
            found.extend(piece)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    command = [sys.executable, "-c", TALK, str(tmp_path / "end"), "20000"]
    ran = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write_end)
    reader.join()
    os.close(read_end)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert found.count(b"\nline ") == 19_999
    assert found.endswith(b"l1\\x0al2\n")


def test_printable_text_has_no_lone_bytes_and_no_controls():
    assert printable("sl\udce9 \u03a9\n\x1b[31m") == "sl\\xe9 \u03a9\\x0a\\x1b[31m"
    assert printable("plain é 漢") == "plain é 漢"
    assert printable("\ud83d") == "\\ud83d"  # half of a pair, from a JSON


def test_a_name_that_no_table_can_hold_is_a_problem_with_a_remedy():
    assert name_problem("slide é.tif") == ""
    assert "sl\\xe9 is not UTF-8" in name_problem("sl\udce9")
    assert "rename it" in name_problem("sl\udce9")
