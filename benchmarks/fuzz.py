"""Fuzz the readers and parsers for as long as one likes: `python benchmarks/fuzz.py --minutes 10`.

Runs the checks of tests/slide/test_fuzz.py over and over with fresh input, under a limit on memory, and prints what
it found and how much it tried. Exit code 1 where something was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

from hypothesis import HealthCheck, settings

CHECKS = Path(__file__).resolve().parents[1] / "tests" / "slide" / "test_fuzz.py"
ROUND = 300


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--memory-gb", type=float, default=8, help="address space; more asked for is a finding"
    )
    options = parser.parse_args()
    limit = int(options.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    settings.register_profile(
        "fuzz", max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("fuzz")
    spec = importlib.util.spec_from_file_location("test_fuzz", CHECKS)
    assert spec is not None
    assert spec.loader is not None
    checks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checks)
    names = [name for name in dir(checks) if name.startswith("test_")]
    deadline = time.monotonic() + 60 * options.minutes
    found: dict[str, str] = {}
    tried = 0
    for name in itertools.cycle(names):
        if time.monotonic() >= deadline:
            break
        if name in found:
            continue
        try:
            getattr(checks, name)()
        except Exception:  # noqa: BLE001  (whatever it is, it is a finding)
            found[name] = traceback.format_exc()
            print(f"--- {name}\n{found[name][-3000:]}", flush=True)
        tried += ROUND
    print(f"{tried} inputs at most to {len(names)} checks, {len(found)} with findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
