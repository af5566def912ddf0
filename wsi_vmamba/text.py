"""Text that may hold anything, such as the name of a file, made fit to be shown and stored."""

from __future__ import annotations

import codecs
import os
import sys

#: Name of the error handler that writes what an encoding lacks as an escape: `\xe9` for a byte of a file name that is
#: not UTF-8, `\u03a9` for a letter. For ``str.encode`` and for streams.
ESCAPED = "wsi_vmamba.escaped"


def printable(text: str) -> str:
    """Return a text in which lone bytes of file names and control characters, line ends too, are escapes."""
    shown = text.encode("utf-8", ESCAPED).decode()
    return "".join(f"\\x{ord(letter):02x}" if _is_control(letter) else letter for letter in shown)


def without_commands(text: str) -> str:
    """Return a text in which control characters that a terminal would obey are escapes; line ends and tabs stay."""
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def name_problem(name: str) -> str:
    """Say why a path or name cannot be used for files and in tables, and what to do; empty where it can.

    File names are bytes and need not be UTF-8; and in a locale that is not, not every text can name a file.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return (
            f"the name {printable(name)} is not UTF-8 (archives of other systems unpack so), and no table can hold it; "
            "rename it, many at once with convmv -f latin1 -t utf8 --notest"
        )
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        return (
            f"the locale of this shell, {sys.getfilesystemencoding()}, has no file names with "
            f"{name[error.start : error.end]!r}; choose one of UTF-8 (export LC_ALL=C.UTF-8), then run the same "
            "command again"
        )
    return ""


def _is_control(letter: str) -> bool:
    return ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape_letter, error.object[error.start : error.end])), error.end


def _escape_letter(letter: str) -> str:
    # Python keeps a byte that it cannot decode as the letter U+DC00 + byte.
    byte = ord(letter) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(ESCAPED, _escape)
