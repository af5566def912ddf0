"""What a file holds that is not what it should be, in words for people: by its first bytes, whatever its name."""

from __future__ import annotations

import re

#: Bytes that are enough to tell.
HEAD_BYTES = 256
_WEB_PAGE = "a web page, as a failed download leaves it"
#: Beginning of a file -> what it is.
_LOOKS_LIKE = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file first"),
)
#: Written in any case, and after blanks or a byte order mark.
_PAGES = (
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"<?xml", "an XML document, as a server sends errors"),
)
_BLANKS = re.compile(rb"\A(?:\xef\xbb\xbf|\s)*")


def describe(head: bytes) -> str:
    """Say what a file beginning with ``head``, its first `HEAD_BYTES`, looks like."""
    known = look_alike(head)
    return known if known is not None else f"unknown bytes {head[:8].hex(' ')}"


def look_alike(head: bytes) -> str | None:
    """The same, None where it is bytes of no kind that is known here."""
    for magic, words in _LOOKS_LIKE:
        if head.startswith(magic):
            return words
    beginning = _BLANKS.sub(b"", head).lower()
    for magic, words in _PAGES:
        if beginning.startswith(magic):
            return words
    if not head:
        return "nothing (0 bytes)"
    if not any(head):
        return "zero bytes; the file was probably never written to its end"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return f"text beginning with {head[:40].decode('ascii')!r}"
    return None
