"""Settings of `view`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText
from wsi_vmamba.config.marks import Argument, SetOnly


class ViewConfig(RunConfig):
    """`wsi-vmamba view`: slides, and what was made of them, in the browser."""

    target: Annotated[PathText | None, Argument("RUN|FEATURES|SLIDE|FOLDER")] = None
    """What to look at; by default the newest run, else the features, else the slides in the current folder."""
    slides: PathText | None = None
    """Folder in which the slides of a run or of features are looked for, where they were moved."""
    drawings: PathText | None = None
    """Folder for what is drawn, one GeoJSON a slide; by default `drawings` in the folder that is looked at."""
    probe: PathText | None = None
    """A probe that `probe --save` wrote; what it calls each patch becomes a map with a legend."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    """Port of the server; 0 for any free one."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own gets a token, and is for networks that you trust."""
    allow_host: list[str] = Field(default_factory=list)
    """Another name under which the server may be asked, as of a proxy before it; may be repeated."""
    token: bool = False
    """Ask for a token on this machine too, where other people use it."""
    browser: bool = True
    """Open the browser."""
    show_labels: bool = False
    """Show pictures of the label and the glass; they often name the patient."""
    follow_links: bool = False
    """Show slides outside the folder that links inside it lead to."""
    threads: Annotated[int | None, Field(ge=1, le=64), SetOnly()] = None
    """How many tiles are read at once; by default two more than there are cores."""
