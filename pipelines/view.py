"""Recipe: a server for the browser, on what was made so far."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba import console
from wsi_vmamba.config import ViewConfig
from wsi_vmamba.text import printable
from wsi_vmamba.view.app import build_app
from wsi_vmamba.view.catalogue import Catalogue
from wsi_vmamba.view.context import Context
from wsi_vmamba.view.drawings import Drawings
from wsi_vmamba.view.open_slides import OpenSlides
from wsi_vmamba.view.safety import access_for, is_loopback
from wsi_vmamba.view.serve import bind, serve
from wsi_vmamba.view.targets import open_target

if TYPE_CHECKING:
    from wsi_vmamba.probing.saved import SavedProbe


def run(config: ViewConfig) -> bool:
    """Serve until Ctrl-C; return True."""
    source = open_target(config)
    listening = bind(config.host, config.port)
    with listening:
        port = listening.getsockname()[1]
        access = access_for(
            config.host, port=port, extra_names=config.allow_host,
            machine_names=(socket.gethostname(), socket.getfqdn()), with_token=config.token,
        )  # fmt: skip
        slides = OpenSlides()
        context = Context(
            Catalogue(source, slides),
            drawings=Drawings(Path(config.drawings) if config.drawings else source.drawings),
            show_labels=config.show_labels,
            threads=config.threads,
            probe=_probe(config),
        )
        address = address_of(config.host, port, token=access.token)
        console.say(f"{source.kind} {printable(source.title)}: {address}")
        if not is_loopback(config.host):
            console.warn("whoever has this address sees these slides; it travels unencrypted")
        console.say("Ctrl-C ends it")
        try:
            serve(
                build_app(context, access),
                listening,
                on_start=lambda: _open(address) if config.browser else None,
                on_end=context.end,
            )
        except KeyboardInterrupt:
            console.say("ended")
        finally:
            is_quiet = context.close()
            slides.close()
    if not is_quiet:
        _leave()
    return True


def _leave() -> None:
    """End the process though a thread is amid a tile: Python cannot take itself apart under native code that runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _probe(config: ViewConfig) -> SavedProbe | None:
    if config.probe is None:
        return None
    # Loads scikit-learn, which a picture alone need not wait for.
    from wsi_vmamba.probing.saved import load_probe

    return load_probe(config.probe)


def address_of(host: str, port: int, *, token: str | None) -> str:
    """The address to open."""
    name = socket.gethostname() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _open(address: str) -> None:
    webbrowser.open(address)
