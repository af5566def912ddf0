"""What a run says of itself: the shares of the time that encoder and decoder waited for each other."""

from __future__ import annotations

from wsi_vmamba.extraction.outcomes import ALREADY_DONE, DONE, FAILED, Outcome
from wsi_vmamba.extraction.summary import waiting_shares
from wsi_vmamba.pipelines import extract


def test_shares_are_of_the_time_of_all_slides_that_were_read():
    outcomes = [
        Outcome(slide_id="a", outcome=DONE, decode_s=10, wait_s=2, stream_s=30),
        Outcome(slide_id="b", outcome=DONE, decode_s=5, wait_s=0.5, stream_s=20),
        Outcome(slide_id="c", outcome=ALREADY_DONE, seconds=99),
        Outcome(slide_id="d", outcome=FAILED, seconds=99),
    ]
    assert waiting_shares(outcomes) == (
        "the encoder waited 5% of the time for pixels, decoding waited 70% for the encoder"
    )
    assert waiting_shares(outcomes[2:]) == ""


def test_a_run_tells_the_shares_and_the_table_has_the_seconds(
    tiny_slides, tmp_path, extract_config, read_outcomes, capsys
):
    config = extract_config(tiny_slides, tmp_path / "out")
    assert extract.run(config) is True
    assert "of the time for pixels, decoding waited" in capsys.readouterr().out
    for row in read_outcomes(tmp_path / "out").values():
        assert 0 < float(row["stream_s"]) <= float(row["seconds"])
        assert max(float(row["decode_s"]), float(row["wait_s"])) <= float(row["stream_s"]) + 0.01
    assert extract.run(config) is True
    assert "decoding waited" not in capsys.readouterr().out
