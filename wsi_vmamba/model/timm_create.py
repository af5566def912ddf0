"""A model of timm with its weights, complete or refused, and what may go wrong on the way in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from wsi_vmamba.errors import UsageError, WeightsError, WsiVmambaError
from wsi_vmamba.model.timm_known import known
from wsi_vmamba.model.weights import read_tensors
from wsi_vmamba.model.window_names import Given, WindowName

_LISTED = 6
#: Errors of huggingface_hub, the most special first -> what they mean and what to do. They are told by their names,
#: since the package need not be installed.
_OF_HUB: tuple[tuple[str, str], ...] = (
    ("GatedRepoError", "its authors ask you to accept their licence: do so at {page} with your account, then log in on "
     "this machine with `hf auth login` (or set HF_TOKEN)"),
    ("RevisionNotFoundError", "the hub has no such revision of it; see {page}"),
    ("RepositoryNotFoundError", "the hub has no such repository, or shows it only to those who are logged in; look at "
     "{page} and log in with `hf auth login` (or set HF_TOKEN)"),
    ("LocalEntryNotFoundError", "it is not in the hub's cache on this machine and the hub cannot be reached; run once "
     "where there is a network, or copy that machine's cache here and point HF_HOME to it"),
    ("OfflineModeIsEnabled", "it is not in the hub's cache on this machine, and HF_HUB_OFFLINE forbids to fetch it; "
     "unset it once, or copy the cache of a machine that has it and point HF_HOME to it"),
    ("EntryNotFoundError", "its repository lacks a file that timm needs (config.json with an architecture, and "
     "weights), so it is no model of timm; see {page}"),
    ("HFValidationError", "that is no name of a repository"),
    ("HfHubHTTPError", "the hub refused; see {page}"),
)  # fmt: skip
#: What timm, torch and the hub raise over names, configurations, weights and networks.
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, OSError)


def import_timm(name: str) -> Any:
    """Import timm.

    Raises:
        UsageError: it is not installed, or does not fit torch; ``name`` is the backbone that needs it.
    """
    try:
        import timm
    # With a torchvision built for another torch, importing it ends in a RuntimeError or an AttributeError.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UsageError(
            f"backbone {name!r} needs timm, which cannot be imported here ({error}): pip install 'wsi-vmamba[timm]', "
            "with a torchvision that matches torch"
        ) from error
    return timm


def create_model(asked: WindowName, *, weights: str | Path | Given | None, seed: int) -> nn.Module:
    """Build a model without its head.

    Args:
        asked: its name.
        weights: a file, those that timm finds, or None for random ones.
        seed: of random weights.

    Raises:
        UsageError: timm is not there or does not know the model, or the hub does not give it.
        WeightsError: the weights are not those of the model, every tensor accounted for.
    """
    timm = import_timm(asked.text)
    arguments = _arguments(timm, asked)
    with torch.random.fork_rng(devices=[]), _recorded_loads() as loads:
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(
                asked.model, pretrained=weights is Given.BY_TIMM, num_classes=0, **arguments
            )
        except _FAULTS as error:
            raise _explained(timm, asked, error) from error
    if weights is Given.BY_TIMM:
        _require_complete(model, loads, asked)
    elif weights is not None:
        load_file(model, weights, head=_heads(model))
    return model.eval()


def _arguments(timm: Any, asked: WindowName) -> dict[str, Any]:
    card = known(asked.repository)
    found = dict(card.arguments)
    for key, layer in card.layers.items():
        found[key] = getattr(timm.layers, layer, None) or getattr(nn, layer)
    if asked.input_px is not None:
        # timm gives it on to models that are built for one size, and resamples their positions.
        found["pretrained_cfg_overlay"] = {"input_size": (3, asked.input_px, asked.input_px)}
        if "img_size" in found:
            found["img_size"] = asked.input_px
    return found


@contextmanager
def _recorded_loads() -> Iterator[list[Any]]:
    """What every `load_state_dict` inside the block says was missing or left over: timm only logs it."""
    found: list[Any] = []
    real = nn.Module.load_state_dict

    def recorded(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        result = real(module, *arguments, **named)
        found.append(result)
        return result

    setattr(nn.Module, "load_state_dict", recorded)  # noqa: B010 -- a method cannot be assigned to, says mypy
    try:
        yield found
    finally:
        setattr(nn.Module, "load_state_dict", real)  # noqa: B010


def _require_complete(model: nn.Module, loads: list[Any], asked: WindowName) -> None:
    """Refuse a model of which a part stayed random, or whose weights were dropped in part.

    Raises:
        WeightsError: naming the tensors.
    """
    facts = pretrained_facts(model)
    if not loads and not facts.get("custom_load"):
        raise WeightsError(
            f"timm has no weights for {asked.text}; name one that has (`timm.list_pretrained()`), or give --weights "
            "FILE"
        )
    missing = [key for one in loads for key in one.missing_keys]
    heads = tuple(f"{head.partition('.')[0]}." for head in _heads(model))
    odd = [key for one in loads for key in one.unexpected_keys if not key.startswith(heads)]
    if missing or odd:
        raise WeightsError(
            f"the weights of {asked.text} do not fit the model that its configuration describes: "
            f"{len(missing)} missing, {len(odd)} left over ({_some([*missing, *odd])}); timm would go on with random "
            "numbers in their place. Its model card says with which arguments to build it: register it as a backbone "
            "of your own with those (docs/how-to/encoders.md)"
        )


def pretrained_facts(model: nn.Module) -> Mapping[str, Any]:
    """What timm knows of a model's weights."""
    found: Mapping[str, Any] = cast(Any, model).pretrained_cfg
    return found


def _heads(model: nn.Module) -> tuple[str, ...]:
    found = pretrained_facts(model).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def load_file(model: nn.Module, path: str | Path, *, head: tuple[str, ...]) -> None:
    """Copy a checkpoint into the model; its head, and nothing else, may be left over.

    Raises:
        WeightsError: the file does not fit.
    """
    state = read_tensors(path)
    body = {key: value for key, value in state.items() if not any(key.startswith(f"{one}.") for one in head)}
    own = model.state_dict()
    odd = sorted(
        key
        for key in own.keys() | body.keys()
        if key not in own
        or key not in body
        or own[key].shape != body[key].shape
        or own[key].is_floating_point() != body[key].is_floating_point()
    )
    if odd:
        raise WeightsError(
            f"{path} does not fit the model: missing, unexpected, of another shape or kind: {', '.join(odd[:_LISTED])}"
        )
    model.load_state_dict(body)


def _explained(timm: Any, asked: WindowName, error: BaseException) -> WsiVmambaError:
    """An error of timm, torch or the hub in one line."""
    said = " ".join(str(error).split())
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    page = f"https://huggingface.co/{asked.repository or f'timm/{asked.model}'}"
    for kind, meaning in _OF_HUB:
        if kind in kinds:
            return UsageError(f"backbone {asked.text!r} cannot be had: {meaning.format(page=page)}")
    if "loading state_dict" in said:
        return WeightsError(
            f"the weights of {asked.text} do not fit the model that its configuration describes ({_short(said)}); "
            "register it as a backbone of your own, built as its model card says (docs/how-to/encoders.md)"
        )
    if said.startswith("Unknown model"):
        near = get_close_matches(asked.model.partition(".")[0], timm.list_models(), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        version = getattr(timm, "__version__", "of unknown version")
        return UsageError(
            f"backbone {asked.text!r}: timm {version} knows no such model{hint}; `timm.list_models()` lists them, "
            "or update timm"
        )
    return UsageError(f"timm does not build {asked.text!r}: {_short(said) or type(error).__name__}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
