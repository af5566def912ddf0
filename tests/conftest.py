"""Fixtures every room shares: reference numbers, and real slides if they are here; one thread; hostile files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden")


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} does not name a folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    return _folder("WSI_VMAMBA_REAL_DATA", "../shared/data")


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference numbers of `tests/golden`, unpacked; everybody has them, so nothing is skipped for want of them."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    with tarfile.open(GOLDEN / "froc.tar.xz") as archive:
        archive.extractall(folder / "froc", filter="data")
    return folder


@pytest.fixture(scope="session")
def large_golden() -> Path:
    """The larger set of reference numbers, where there is one."""
    return _folder("WSI_VMAMBA_GOLDEN", "../shared/golden")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors of tests are slower on several threads, much slower where other programs run beside."""
    import torch  # most tests need none, and it is slow to import

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def serve_hostile() -> Iterator[Callable[..., Callable[[Path | str], dict[str, object]]]]:
    """Start `hostile_server.py`, which opens a file in a process of its own and reports error, time and memory.

    What is called with words for its command line, and returns what is called with the path or URL of a file.
    """
    servers: list[subprocess.Popen[str]] = []

    def start(*words: str) -> Callable[[Path | str], dict[str, object]]:
        program = [sys.executable, str(Path(__file__).with_name("hostile_server.py")), *words]
        server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        servers.append(server)

        def ask(path: Path | str) -> dict[str, object]:
            assert server.stdin is not None
            assert server.stdout is not None
            print(json.dumps(str(path)), file=server.stdin, flush=True)
            found: dict[str, object] = json.loads(server.stdout.readline())
            return found

        return ask

    yield start
    for server in servers:
        server.communicate()
