"""The server itself: a port that is taken, pictures over a real connection, an end at once."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
import tifffile

from wsi_vmamba.errors import UsageError
from wsi_vmamba.view.pool import BusyError, Pool
from wsi_vmamba.view.serve import PortTakenError, bind


def test_a_port_that_is_taken_is_said_with_the_way_on():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} is taken.*--port"):
            bind("127.0.0.1", port)


def test_an_address_that_is_none_is_said():
    with pytest.raises(UsageError, match="--host"):
        bind("256.0.0.1", 0)


def test_the_command_serves_and_ctrl_c_ends_it_at_once(tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(700, 500))
    command = [sys.executable, "-m", "wsi_vmamba", "view", str(tmp_path), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                port = int(found[1])
                break
        assert port is not None
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        page = connection.getresponse()
        assert page.status == 200
        assert b"<html" in page.read()
        assert "server" not in {name.lower() for name, _ in page.getheaders()}
        # The connection stays open, as a browser's does; the end must not wait for it.
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=20)[0]
        assert time.monotonic() - began < 10  # a second or two, on a machine that does nothing else
        assert process.returncode == 0
        assert "Traceback" not in rest
        connection.close()
    finally:
        process.kill()
        process.wait()


def test_ended_amid_tiles_it_says_nothing_of_its_inside(tmp_path):
    """The coarse levels of this slide take many seconds, so that threads are at work whenever the end comes."""
    side, tile = 32768, zlib.compress(bytes(256 * 256 * 3))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(
            iter([tile] * (side // 256) ** 2), shape=(side, side, 3), dtype=np.uint8, tile=(256, 256),
            photometric="rgb", compression="deflate", metadata=None,
        )  # fmt: skip
    command = [sys.executable, "-m", "wsi_vmamba", "view", str(tmp_path), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    asked = []
    try:
        port = next(int(m[1]) for line in process.stdout if (m := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        for kind in ("thumbnail.jpg", "tiles/5/0_0.jpg", "tiles/4/0_0.jpg"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            if not asked:
                connection.request("GET", "/slides")
                (listed,) = json.loads(connection.getresponse().read())["slides"]
            connection.request("GET", f"/slides/{listed['id']}/{kind}")
            asked.append(connection)
        time.sleep(0.3)  # they are being made now
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in rest
    assert "terminate" not in rest
    assert process.returncode == 0
    for connection in asked:
        answer = connection.getresponse()
        assert answer.status in {200, 503}
        assert answer.status == 200 or json.loads(answer.read())["error"]["code"] == "ending"
        connection.close()


def test_a_pool_hands_errors_on_and_refuses_more_than_it_can_do():
    pool, blocked = Pool(1, name="test", most_waiting=2), threading.Event()
    first = pool.submit(blocked.wait)
    while not first.running():
        time.sleep(0.001)
    waiting = [pool.submit(lambda: 1 / 0), pool.submit(lambda: 7)]
    with pytest.raises(BusyError):
        pool.submit(lambda: 8)
    blocked.set()
    with pytest.raises(ZeroDivisionError):
        waiting[0].result(timeout=10)
    assert waiting[1].result(timeout=10) == 7
    pool.close()
