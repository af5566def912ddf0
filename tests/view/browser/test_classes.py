"""What a probe calls each patch, in a real browser: colours of classes where their patches are, and a legend."""

from __future__ import annotations

import numpy as np
import pytest

#: Of `stroma` and `tumour`, in this order.
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


@pytest.fixture
def probe_address(cohort, tmp_path, serve):
    """Of a viewer with a probe that calls patches tumour where their first feature is over a half."""
    from wsi_vmamba.probing.linear import LinearProbe
    from wsi_vmamba.probing.saved import ProbeFacts, SavedProbe

    weight = np.zeros((2, 12))
    weight[1, 0] = 1.0
    linear = LinearProbe(
        mean=np.zeros(12), scale=np.ones(12), weight=weight, bias=np.array([0.5, 0.0]), penalty_c=1.0, chosen_by="fixed"
    )  # fmt: skip
    facts = ProbeFacts(
        classes=("stroma", "tumour"), encoder="null", weights_hash="ab" * 32, precision="fp32", mpp=0.5,
        tile_px=(64, 64), tiles=9, groups=3, auc=None, penalty_c=1.0,
    )  # fmt: skip
    SavedProbe(linear=linear, facts=facts).save(tmp_path / "probe.safetensors")
    with serve(
        cohort, "--probe", str(tmp_path / "probe.safetensors"), "--drawings", str(tmp_path / "d")
    ) as at:
        yield at


@pytest.mark.slow
def test_classes_lie_on_their_patches_with_a_legend_and_end_with_them(probe_address, pages_of, facts):
    page = pages_of(probe_address)()
    page.go(f"#s={page.ids()['tumour']}&l=classes&o=1&v=none&x=3200&y=2400&k=0.11")
    assert page.parts()["l"] == "classes"
    legend = [each.inner_text() for each in page.page.locator("#classes li").all()]
    assert legend == ["stroma", "tumour"]
    shown = page.screenshot("classes")
    for box, colour in (
        ((facts.left, facts.top, facts.right, facts.bottom), ORANGE),
        ((facts.left - 480, facts.top, facts.left, facts.bottom), BLUE),
    ):
        (left, top), (right, bottom) = page.at(box[0], box[1]), page.at(box[2], box[3])
        inside = shown[round(top) + 2 : round(bottom) - 1, round(left) + 2 : round(right) - 1]
        assert np.abs(inside - colour).max() <= 12
    glass = page.at(100, 100)
    assert np.abs(shown[round(glass[1]), round(glass[0])] - facts.GLASS).max() <= 14
    # Under the pointer the class is said by its name.
    page.page.mouse.move(*page.at((facts.left + facts.right) / 2, (facts.top + facts.bottom) / 2))
    page.settle()
    assert "tumour" in page.page.locator("#position").inner_text()
