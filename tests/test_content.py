"""What a file looks like by its first bytes."""

from __future__ import annotations

import pytest

from wsi_vmamba.content import describe, look_alike


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"<html>", "a web page"),
        (b"\xef\xbb\xbf\r\n  <!DoCtYpE hTmL>", "a web page"),
        (b"<?xml version='1.0'?>", "an XML document"),
        (b"BZh9", "a bzip2 archive"),
        (b"\xfd7zXZ\0", "an xz archive"),
        (b"", "nothing"),
        (b"\0\0", "zero bytes"),
        (b"plain", "text beginning with 'plain'"),
        (b"\x80\x02\xff", "unknown bytes 80 02 ff"),
    ],
)
def test_describe(head: bytes, words: str) -> None:
    assert describe(head).startswith(words)


def test_bytes_of_no_known_kind() -> None:
    assert look_alike(b"\x80\x02\xff") is None
