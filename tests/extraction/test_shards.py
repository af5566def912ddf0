"""Shards of a list of slides: disjoint, complete, the same on every machine."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.extraction.sources import SlideSource, take_shard
from wsi_vmamba.pipelines import extract


def sources(n: int) -> list[SlideSource]:
    return [SlideSource(slide_id=f"s{index:03}", path=Path(f"s{index:03}.tif")) for index in range(n)]


@pytest.mark.parametrize("n_slides", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("n_shards", [1, 2, 7, 8, 13])
def test_shards_are_disjoint_complete_and_even(n_slides: int, n_shards: int):
    slides = sources(n_slides)
    shards = [take_shard(slides, f"{index}/{n_shards}") for index in range(1, n_shards + 1)]
    together = [source.slide_id for shard in shards for source in shard]
    assert sorted(together) == [source.slide_id for source in slides]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_does_not_depend_on_the_order_of_the_list_and_none_is_everything():
    slides = sources(20)
    shuffled = random.Random(0).sample(slides, len(slides))
    assert take_shard(shuffled, "3/6") == take_shard(slides, "3/6")
    assert [source.slide_id for source in take_shard(slides, "3/6")] == ["s002", "s008", "s014"]
    assert take_shard(shuffled, None) == shuffled


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1/0", "1", "1/", "a/b", "-1/4", "1/4/2", "1.5/4", ""])
def test_anything_else_is_refused_before_any_work(shard: str):
    with pytest.raises(UsageError, match="i from 1 to n"):
        take_shard(sources(4), shard)
    with pytest.raises(ValueError, match="i from 1 to n"):
        ExtractConfig(shard=shard)


def test_workers_and_scheduler_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        ExtractConfig(workers=2, scheduler="tcp://127.0.0.1:8786")


@pytest.mark.parametrize("address", ["host:8786", "tcp://host", "http://host:8787", "tcp://:x", ""])
def test_an_address_without_protocol_or_port_is_refused(address: str):
    with pytest.raises(ValueError, match="tcp://host:8786"):
        ExtractConfig(scheduler=address)


def test_the_shards_of_a_folder_together_make_what_one_run_makes(
    tiny_slides, tmp_path, extract_config, store_bytes, read_outcomes, capsys
):
    for index in range(1, 6):
        assert extract.run(extract_config(tiny_slides, tmp_path / "out", shard=f"{index}/5")) is True
    assert "0 slide(s)" in capsys.readouterr().out  # of five shards of three slides, two are empty
    assert extract.run(extract_config(tiny_slides, tmp_path / "whole")) is True
    assert store_bytes(tmp_path / "out") == store_bytes(tmp_path / "whole")
    assert set(read_outcomes(tmp_path / "out")) == {"s0", "s1", "s2"}
