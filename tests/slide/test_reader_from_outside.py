"""A reader of one's own: a package from outside and one line in the table, nothing else."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from wsi_vmamba.errors import UnknownNameError, UnreadableSlideError, UsageError
from wsi_vmamba.slide import READERS, Slide, find_slides, open_slide
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.readers import readers

#: The light half, which is imported to ask.
ASKED = """
from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.reader import Reader

def recognises(head, path):
    if str(path).endswith(".half.abc"):
        raise UnreadableSlideError(path, "the other half is not beside it")
    return head.startswith(b"ABC!")

READER = Reader(
    title="the ABC reader", formats=("ABC",), slide="abc_reader.slide:AbcSlide", recognises=recognises,
    suffixes=(".abc", ".raw.abc"), part_of=lambda path: path.read_bytes()[4:5].hex() if path.name[:2] == "p_" else None,
)
"""
#: The heavy half, which is imported to open.
OPENED = """
from pathlib import Path
import numpy as np
from wsi_vmamba.slide.base import Level
from wsi_vmamba.slide.canvas import CanvasSlide
from wsi_vmamba.slide.scenes import only_scene

class AbcSlide(CanvasSlide):
    def __init__(self, path, *, scene=None):
        only_scene(path, scene, reader="abc")
        data = Path(path).read_bytes()
        self.width, self.height = data[4:6]
        self.pixels = np.frombuffer(data[6:], np.uint8).reshape(self.height, self.width, 3)
        level = Level(width_px=self.width, height_px=self.height, downsample=1.0)
        super().__init__(path, reader="abc", levels=(level,), mpp=None, properties={"format": "ABC"})

    def _read_into(self, out, *, level, x_px, y_px):
        out[:] = self.pixels[y_px : y_px + out.shape[0], x_px : x_px + out.shape[1]]

    def close(self):
        pass
"""


@pytest.fixture
def abc(tmp_path, monkeypatch, coordinates):
    """A folder with a slide of the new format, whose reader is in the table."""
    package = tmp_path / "outside" / "abc_reader"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ASKED)
    (package / "slide.py").write_text(OPENED)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(READERS._own, "abc", "abc_reader:READER")  # the line in the table
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.raw.abc").write_bytes(b"ABC!" + bytes([40, 30]) + coordinates(40, 30).tobytes())
    yield folder
    for name in ("abc_reader", "abc_reader.slide"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def test_its_slides_are_recognised_opened_found_and_named(abc, coordinates):
    path = abc / "a.raw.abc"
    for slide in (open_slide(path), open_slide(str(path), reader="abc")):
        with slide:
            assert isinstance(slide, Slide)
            assert (slide.reader, slide.slide_id, slide.scene.number, slide.damage(0)) == ("abc", "a", 0, ())
            found = slide.read_region(x_l0=-1, y_l0=0, level=0, width_px=41, height_px=30)
            np.testing.assert_array_equal(found[:, 1:], coordinates(40, 30))
            np.testing.assert_array_equal(slide.thumbnail(100), coordinates(40, 30))
    assert slide_id_of("x.RAW.abc") == "x"
    for name in ("p_1", "p_2", "p_3"):
        (abc / name).write_bytes(b"ABC!" + (b"1" if name == "p_3" else b"0"))
    assert find_slides(abc) == [path, abc / "p_1", abc / "p_3"]


def test_asking_does_not_import_what_opens(abc):
    (abc / "b.svs").write_text("no slide")
    with pytest.raises(
        UnreadableSlideError, match=r"expected a whole-slide image \(.*, ABC, .*\), found text"
    ):
        open_slide(abc / "b.svs")
    assert "abc_reader" in sys.modules
    assert "abc_reader.slide" not in sys.modules


def test_it_is_asked_before_openslide_which_knows_much(abc):
    assert [reader.title for reader in readers()][-2:] == ["the ABC reader", "OpenSlide"]


def test_what_is_no_reader_is_said_with_its_place(abc, monkeypatch):
    monkeypatch.setitem(READERS._own, "abc", "abc_reader:recognises")
    for reader in (None, "abc"):
        with pytest.raises(
            UsageError, match=r"'abc' is abc_reader:recognises, and that is no .*\.Reader; mend the package"
        ):
            open_slide(abc / "a.raw.abc", reader=reader)


def test_its_refusals_and_name_are_in_the_messages(abc):
    (abc / "b.half.abc").write_bytes(b"ABC!")
    with pytest.raises(UnreadableSlideError, match=r"b\.half\.abc: the other half is not beside it"):
        open_slide(abc / "b.half.abc")
    with pytest.raises(UnknownNameError, match="did you mean 'abc'"):
        open_slide(abc / "a.raw.abc", reader="abd")
    with pytest.raises(UnreadableSlideError, match="from a URL only OME-Zarr is read"):
        open_slide("https://host/a.abc")
