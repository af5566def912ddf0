"""Run the blocks of a page one after the other in the current folder, in a process that test_blocks.py starts.

Standard input is a JSON list of ``{"language", "text", "line"}``. Python blocks share their names, as the cells of a
notebook do; shell blocks stop at the first command that fails. The first block that fails ends it, named by its line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback

names: dict[str, object] = {"__name__": "__main__"}
for block in json.load(sys.stdin):
    where = f"the {block['language']} block at line {block['line']}"
    print(f"--- {where}", flush=True)
    if block["language"] == "sh":
        ended = subprocess.run(["bash", "-euo", "pipefail", "-c", block["text"]], stdin=subprocess.DEVNULL)
        if ended.returncode:
            sys.exit(f"{where} ended with {ended.returncode}")
        continue
    try:
        exec(compile("\n" * block["line"] + block["text"], "page", "exec"), names)
    except (Exception, SystemExit):  # noqa: BLE001 - a page may raise anything; it is told with its line
        traceback.print_exc()
        sys.exit(f"{where} failed")
