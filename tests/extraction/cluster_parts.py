"""Stands for another program: a Dask scheduler, or a worker of one whose first process dies in the middle of a slide.

python cluster_parts.py scheduler           prints its address
python cluster_parts.py worker ADDRESS [N]  kills itself with SIGKILL while it decodes its N-th tile
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any

from distributed import Scheduler, Worker


async def scheduler() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as running:
        print("ready", running.address, flush=True)
        await running.finished()


async def worker(address: str, deadly_tile: int) -> None:
    if deadly_tile:
        plant(deadly_tile)
    async with Worker(address, nthreads=1, host="127.0.0.1", dashboard=False, memory_limit=0) as running:
        print("ready", running.address, flush=True)
        await running.finished()


def plant(deadly_tile: int) -> None:
    from wsi_vmamba.slide.tiff import slide as tiff

    decode, lock, seen = tiff.decode_tile, threading.Lock(), 0

    def deadly(*values: Any, **options: Any) -> Any:
        nonlocal seen
        with lock:
            seen += 1
            if seen == deadly_tile:
                os.kill(os.getpid(), signal.SIGKILL)
        return decode(*values, **options)

    tiff.decode_tile = deadly


if __name__ == "__main__":
    if sys.argv[1] == "scheduler":
        asyncio.run(scheduler())
    else:
        asyncio.run(worker(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
