"""Recipe: list, import and verify weights."""

from __future__ import annotations

from dataclasses import astuple, fields

from wsi_vmamba import console
from wsi_vmamba.config import WeightsConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.model.stored import stored_folder
from wsi_vmamba.weights.listing import Listed, listed


def run(config: WeightsConfig) -> bool:
    """Do what is asked; return whether all weights that were looked at are sound."""
    if config.action == "add":
        return _add(config)
    return _verify(config.source) if config.action == "verify" else _list()


def _list() -> bool:
    console.print_table(
        f"weights for --weights NAME (imported ones in {stored_folder()}; top-1 on ImageNet-1K as published)",
        [field.name.replace("_", " ") for field in fields(Listed)],
        [astuple(line) for line in listed()],
    )
    return True


def _add(config: WeightsConfig) -> bool:
    # Loads torch, which a list need not wait for.
    from wsi_vmamba.weights.add import UNSTATED, add

    require_writable(stored_folder(), option="folder, in the variable WSI_VMAMBA_HOME")
    added = add(
        config.source or "",
        name=config.name,
        licence=config.licence,
        part=config.part,
        sha256=config.sha256,
        overwrite=config.overwrite,
        say=console.say,
    )
    console.say(
        f"{added.name}: {added.converted.variant}, {len(added.converted.tensors)} tensors, {added.file}"
    )
    for line in added.converted.changes:
        console.say(f"  {line}")
    if added.licence == UNSTATED:
        console.warn(
            "no licence is stated; find out whether you may use these weights, and note it with --licence"
        )
    console.say(
        f"next: wsi-vmamba extract SLIDES --backbone {added.converted.variant} --weights {added.name}"
    )
    return True


def _verify(name: str | None) -> bool:
    from wsi_vmamba.weights.keep import choose_stored, problem_of

    damaged = 0
    for found, file in choose_stored(name).items():
        problem = problem_of(file)
        damaged += problem is not None
        if problem is None:
            console.say(f"{found}: sound")
        else:
            console.warn(f"{found}: damaged: {problem}")
    if damaged:
        console.say(f"{damaged} damaged; import them again with `wsi-vmamba weights add ... --overwrite`")
    return damaged == 0
