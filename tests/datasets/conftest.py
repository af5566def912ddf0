"""A local S3 server with a small CAMELYON16 in it, and a wire to it that can be slow, cut or counted."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

XML = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="_0"><Coordinates>
<Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="90" Y="0"/><Coordinate Order="2" X="90" Y="90"/>
</Coordinates></Annotation></Annotations></ASAP_Annotations>"""


def slide_bytes(path: Path, *, side_px: int, seed: int) -> bytes:
    """A tiled TIFF of noise, which does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, tile=(256, 256), photometric="rgb", metadata=None)
        tif.write(pixels[::2, ::2], tile=(256, 256), photometric="rgb", subfiletype=1, metadata=None)
    return path.read_bytes()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("moto.server", reason="the S3 server of the tests is not installed")
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="module")
def camelyon(server: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All 399 slides of the bucket, three of them real files and one of those large, with checksums.md5."""
    import botocore.session

    from wsi_vmamba.datasets.camelyon16_remote import REMOTE

    folder = tmp_path_factory.mktemp("bucket")
    files = {f"images/{slide_id}.tif": slide_id.encode() for slide_id in REMOTE.slide_ids}
    sides = {"normal_001": 300, "tumor_001": 600, "tumor_002": 2600}
    for seed, (slide_id, side_px) in enumerate(sides.items()):
        files[f"images/{slide_id}.tif"] = slide_bytes(folder / "one.tif", side_px=side_px, seed=seed)
    files |= {f"annotations/tumor_{number:03d}.xml": XML.encode() for number in (1, 2)}
    md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    listed = "".join(f"{digest} *{name}\n" for name, digest in md5.items())
    client = botocore.session.get_session().create_client(
        "s3", region_name=REMOTE.region, endpoint_url=server, aws_access_key_id="a", aws_secret_access_key="b"
    )
    place = {"LocationConstraint": REMOTE.region}
    client.create_bucket(Bucket=REMOTE.bucket, CreateBucketConfiguration=place, ACL="public-read-write")
    for name, content in {**files, "checksums.md5": listed.encode()}.items():
        client.put_object(Bucket=REMOTE.bucket, Key=f"CAMELYON16/{name}", Body=content, ACL="public-read")
    return SimpleNamespace(files=files, md5=md5, client=client, bucket=REMOTE.bucket, endpoint=server)


@dataclass
class Wire:
    """A TCP relay to the server: what passes is recorded, and answers may be cut or held.

    Attributes:
        endpoint: URL to give to the client.
        requests: first line and Range header of every request, as they passed.
        cut_after: close the connection once this many bytes of one answer have passed; None for never.
        cuts: how many more connections are cut so.
        hold_after: let this many bytes of one answer pass and then nothing more; None for never.
        held: set once an answer is held.
    """

    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    cut_after: int | None = None
    cuts: int = 0
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def relay(self, client: socket.socket, port: int) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            there = threading.Thread(target=self._upwards, args=(client, upstream), daemon=True)
            there.start()
            passed = 0
            with contextlib.suppress(OSError):
                while data := upstream.recv(65536):
                    passed += len(data)
                    if self.cut_after is not None and passed > self.cut_after and self.cuts > 0:
                        self.cuts -= 1
                        break
                    if self.hold_after is not None and passed > self.hold_after:
                        self.held.set()
                        self.closing.wait()
                        break
                    client.sendall(data)
            for end in (client, upstream):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            there.join(timeout=5)

    def _upwards(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                text = data.decode("latin-1")
                if text.startswith("GET"):
                    wanted = re.search(r"(?mi)^range: *(\S+)", text)
                    self.requests.append((text.split(" ")[1], wanted[1] if wanted else ""))
                upstream.sendall(data)


@pytest.fixture
def wire(camelyon: SimpleNamespace) -> Iterator[Wire]:
    port = int(camelyon.endpoint.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Wire(endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                thread = threading.Thread(target=relay.relay, args=(client, port), daemon=True)
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    yield relay
    relay.closing.set()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join(timeout=5)
    for thread in threads:
        thread.join(timeout=5)
