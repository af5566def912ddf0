"""A folder of what one model made of slides with one choice of settings; what another made is never mixed in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.config import RunConfig
from wsi_vmamba.durable import describe_os_error, require_writable
from wsi_vmamba.errors import IncompatibleStoreError, StoreError
from wsi_vmamba.provenance import write_run_record

_MADE_BY, _MODEL = "made_by", "model"


class OutputFolder:
    """The folder, and the record of who made what is in it."""

    def __init__(
        self, config: RunConfig, *, command: str, kind: str, made_by: Mapping[str, Any], overwrite: bool
    ) -> None:
        """Nothing is read or written yet.

        Args:
            config: of the run; ``out`` is the folder.
            command: its name.
            kind: of the model, such as "segmenter", for messages.
            made_by: what decides what becomes of a slide: under "model" its fingerprint, then settings, plain values.
            overwrite: replace what another made.
        """
        self.path = Path(config.out)  # type: ignore[attr-defined]
        self._config, self._command, self._kind = config, command, kind
        self._made_by: dict[str, Any] = json.loads(json.dumps(dict(made_by)))
        self._overwrite = overwrite
        #: Whether another made what is there, all of which this run replaces.
        self.is_replaced = False

    def require_ours(self, slide_ids: Sequence[str], *, there: Mapping[str, Path]) -> None:
        """Refuse a folder that cannot be written, or whose slides another made.

        Args:
            slide_ids: the slides of this run.
            there: slides of which the folder holds something -> a file of each.

        Raises:
            IncompatibleStoreError: another model, other settings or something else made them.
            StoreError: the record cannot be read, or the folder not be written.
        """
        require_writable(self.path, option="--out")
        others = sorted(set(there) - set(slide_ids))
        differ = self._differ(there)
        self.is_replaced = bool(differ)
        if not differ or (self._overwrite and not others):
            return
        what = f"{self.path} holds what {differ} made"
        if self._overwrite:
            raise IncompatibleStoreError(
                f"{what}, also {len(others)} slides that are not among these ({', '.join(others[:3])}) and would stay; "
                "choose another --out, or remove their files"
            )
        raise IncompatibleStoreError(f"{what}; choose another --out, or replace it with --overwrite")

    def begin(self, facts: Mapping[str, Any], *, replaced: Iterable[Path]) -> None:
        """Remove what is replaced where that is asked for, then record who makes what comes.

        In this order: if this is interrupted, nothing old is taken for what the record says.

        Raises:
            StoreError: a file cannot be removed or written.
        """
        if self._overwrite:
            for path in replaced:
                _remove(path)
        write_run_record(
            self.path, command=self._command, config=self._config, facts={**facts, _MADE_BY: self._made_by}
        )

    def _differ(self, there: Mapping[str, Path]) -> str:
        """In words, what made the folder where that is not what is to be done now; else nothing."""
        record = self.path / f"{self._command}.run.json"
        if not record.is_file():
            ours = sorted(there)
            return f"something else ({there[ours[0]].name} has no {record.name} beside it)" if ours else ""
        before = self._recorded(record)
        if before.get(_MODEL) != self._made_by[_MODEL]:
            return f"another {self._kind}"
        differ = [
            f"{name}: {before.get(name)} there, {value} asked"
            for name, value in self._made_by.items()
            if before.get(name) != value
        ]
        return f"other settings ({'; '.join(differ)})" if differ else ""

    def _recorded(self, record: Path) -> Mapping[str, Any]:
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                found = content.get(_MADE_BY, {})
                return found if isinstance(found, dict) else {}
            reason = "it is no record"
        except (OSError, ValueError) as error:
            reason = str(error)
        if self._overwrite:
            return {}
        raise StoreError(
            f"{record} cannot be read ({reason}); choose another --out, or replace what is there with --overwrite"
        )


def decides(config: RunConfig, *, free: Iterable[str]) -> dict[str, Any]:
    """Settings of a run but for those that may differ between runs into one folder."""
    return config.model_dump(mode="json", exclude=set(free))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be replaced: {describe_os_error(error)}") from error
