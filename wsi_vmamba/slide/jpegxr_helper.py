"""Decodes JPEG XR in a process of its own, see `wsi_vmamba.slide.jpegxr`; a script, run by path.

Requests on standard input: (bytes, height, width, samples) as four little-endian numbers of 4 bytes, then the data.
Answers on standard output: 0 and the pixels, or the length of an error and its text.
"""

from __future__ import annotations

import os
import struct
import sys

REQUEST = struct.Struct("<4I")
ANSWER = struct.Struct("<I")


def main() -> None:
    """Answer requests until standard input ends."""
    # The decoder prints what it thinks of the data to both; neither may get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    import imagecodecs
    import numpy as np

    while len(head := sys.stdin.buffer.read(REQUEST.size)) == REQUEST.size:
        length, height, width, samples = REQUEST.unpack(head)
        data = sys.stdin.buffer.read(length)
        shape = (height, width) if samples == 1 else (height, width, samples)
        try:
            # With a target of its own size, the decoder refuses data of any other before it makes room for them.
            pixels = imagecodecs.jpegxr_decode(data, out=np.empty(shape, dtype=np.uint8))
        except (RuntimeError, ValueError) as error:
            words = str(error).encode()
            answers.write(ANSWER.pack(len(words)) + words)
        else:
            answers.write(ANSWER.pack(0) + pixels.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
