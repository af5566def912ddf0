"""What is drawn with the pointer lies in the file where it was drawn, and is never lost without a word."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def saved(cohort):
    return lambda: json.loads((cohort / "drawings" / "tumour.geojson").read_text())["features"]


@pytest.fixture
def desk(page, facts):
    """The corner of the lesion in the middle of the screen, nothing drawn yet."""
    # What others drew on this page went with its file; a page that is loaded anew knows that.
    page.open(f"#s={page.ids()['tumour']}&x={facts.left}&y={facts.top}&k=0.4&l=none&v=none")
    return page


def wait_saved(page):
    page.page.wait_for_timeout(100)
    page.page.wait_for_selector("#saved[data-state=saved]")


def drag(page, points):
    page.page.mouse.move(*points[0])
    page.page.mouse.down()
    for point in points[1:]:
        page.page.mouse.move(*point)
    page.page.mouse.up()


@pytest.mark.parametrize("turned", ["", "&r=90&f=1"])
def test_a_polygon_is_saved_where_it_was_drawn(desk, saved, facts, turned):
    if turned:
        desk.open("#" + desk.page.url.partition("#")[2] + turned)
    desk.page.keyboard.press("g")
    column, row = desk.at(facts.left, facts.top)
    around = [(-80, -60), (110, -40), (90, 100), (-50, 70)]
    for dx, dy in around:
        desk.page.mouse.click(column + dx, row + dy)
    desk.page.keyboard.press("Enter")
    wait_saved(desk)
    (feature,) = saved()
    # Turned by 90 degrees and then flipped, x and y change places.
    seen = [(dy, dx) if turned else (dx, dy) for dx, dy in around]
    expected = np.array([(facts.left + dx / 0.4, facts.top + dy / 0.4) for dx, dy in seen])
    got = np.array(feature["geometry"]["coordinates"][0])
    assert np.array_equal(got[0], got[-1])
    assert np.abs(got[:-1] - expected).max() <= 1 / 0.4  # one screen pixel
    assert feature["properties"]["classification"]["name"] == "Tumor"
    shown = desk.screenshot("drawing")
    edge = shown[round(row - 50) - 3 : round(row - 50) + 4, round(column + 15)]  # on its first side
    assert np.abs(edge - np.array([213, 94, 0])).sum(-1).min() < 60


def test_rectangle_and_freehand_with_a_class_of_ones_own_undone_and_deleted(desk, saved, facts):
    column, row = desk.at(facts.left, facts.top)
    desk.page.locator("#group").fill("Stroma")
    desk.page.locator("#group").press("Tab")
    desk.page.keyboard.press("b")
    drag(desk, [(column - 100, row - 80), (column, row), (column + 40, row + 20)])
    wait_saved(desk)
    (box,) = saved()
    xs, ys = np.array(box["geometry"]["coordinates"][0]).T
    assert [xs.min(), ys.min(), xs.max(), ys.max()] == pytest.approx(
        [facts.left - 250, facts.top - 200, facts.left + 100, facts.top + 50], abs=2.5
    )
    assert box["properties"]["classification"]["name"] == "Stroma"

    desk.page.keyboard.press("w")
    turns = np.linspace(0, 2 * np.pi, 40)
    drag(desk, [(column + 60 * np.cos(turn), row + 60 * np.sin(turn)) for turn in turns])
    wait_saved(desk)
    ring = np.array(saved()[1]["geometry"]["coordinates"][0])
    away = np.hypot(*(ring - (facts.left, facts.top)).T)
    assert away == pytest.approx(np.full(len(ring), 150), abs=5)

    desk.page.keyboard.press("Control+z")
    wait_saved(desk)
    assert len(saved()) == 1
    desk.page.keyboard.press("Control+Shift+Z")
    wait_saved(desk)
    assert len(saved()) == 2
    desk.page.locator("#shapes .quiet").first.click()
    wait_saved(desk)
    assert len(saved()) == 1
    desk.open("#" + desk.page.url.partition("#")[2])
    assert desk.page.locator("#shapes li").count() == 1


def test_a_distance_is_measured_in_micrometres(desk, facts):
    desk.page.keyboard.press("m")
    column, row = desk.at(facts.left, facts.top)
    drag(desk, [(column - 100, row), (column + 50, row), (column + 100, row)])
    assert desk.page.locator("#spoken").inner_text() == "Distance 100 µm"  # 200 screen px = 500 px of 0.2 um
    desk.screenshot("measure")


def test_what_somebody_else_saved_meanwhile_is_not_overwritten_and_both_can_be_kept(
    desk, saved, facts, cohort
):
    column, row = desk.at(facts.left, facts.top)
    desk.page.keyboard.press("b")
    drag(desk, [(column - 100, row - 80), (column - 50, row - 50), (column - 40, row - 20)])
    wait_saved(desk)
    path = cohort / "drawings" / "tumour.geojson"
    theirs = saved()
    theirs.append({**theirs[0], "id": "theirs"})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": theirs}))

    drag(desk, [(column + 10, row + 10), (column + 60, row + 60), (column + 80, row + 70)])
    desk.page.wait_for_selector("#message[role=alert]:has-text('somebody else')")
    assert desk.page.locator("#saved").inner_text() == "Not saved"
    assert len(saved()) == 2
    desk.page.get_by_role("button", name="Keep both").click()
    wait_saved(desk)
    assert len(saved()) == 3
    assert "theirs" in {each["id"] for each in saved()}
    # A browser writes each refused request on its console; this one was meant.
    desk.faults[:] = [fault for fault in desk.faults if "412" not in fault]
