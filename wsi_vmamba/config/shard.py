"""One part of a list of slides, for the jobs of an array."""

from __future__ import annotations

import re

from wsi_vmamba.errors import UsageError


def parse_shard(shard: str) -> tuple[int, int]:
    """Read "i/n" as (i, n), 1 <= i <= n.

    Raises:
        UsageError: it is not of that form.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"a shard is i/n with i from 1 to n, as in 1/8 to 8/8; got {shard!r}")
    return index, count
