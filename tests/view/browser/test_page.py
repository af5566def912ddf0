"""The page in a real browser, by value: what is where on the screen, what is saved, what the address restores."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow
#: Controls that a screen reader could not name.
UNNAMED = """() => [...document.querySelectorAll("button, input, select, [role]")].filter((each) => !each.hidden
  && !(each.textContent.trim() || each.getAttribute("aria-label") || each.getAttribute("aria-labelledby")
    || each.labels?.length || ["status", "alert"].includes(each.getAttribute("role")))).map((each) => each.outerHTML)"""

#: What is known of the first slide of the list.
SLIDE = (
    """async () => (await fetch("/slides/" + (await (await fetch("/slides")).json()).slides[0].id)).json()"""
)


def near(pixel, colour, tolerance=40) -> bool:
    return bool(np.abs(np.asarray(pixel) - np.asarray(colour)).max() <= tolerance)


def change_near(line, at, hot, cold) -> float:
    """Where along a line of pixels its colour goes from one to the other, as the number of pixels past `at`."""
    kinds = np.abs(line - np.asarray(hot)).sum(-1) < np.abs(line - np.asarray(cold)).sum(-1)
    changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    return min((float(change - at) for change in changes), key=abs)


@pytest.mark.parametrize("k", [0.11, 0.5, 2.0])
def test_slide_and_heatmap_lie_on_the_same_pixels_at_every_zoom(page, facts, k):
    ids = page.ids()
    for x, y in ((facts.left, facts.top), (facts.right, facts.bottom)):
        for layer, hot, cold in (
            ("none", facts.TUMOUR, facts.TISSUE),
            ("feature:0", facts.FIRST, facts.LAST),
        ):
            page.go(f"#s={ids['tumour']}&x={x}&y={y}&k={k}&l={layer}&o=1&v=none")
            shown = page.screenshot()
            column, row = page.at(x, y)
            # One patch inside the lesion, along both edges.
            inside = facts.PATCH * k * (1 if x == facts.left else -1)
            across = shown[round(row + inside), round(column) - 30 : round(column) + 30]
            down = shown[round(row) - 30 : round(row) + 30, round(column + inside)]
            for line, at in ((across, column - round(column) + 30), (down, row - round(row) + 30)):
                assert abs(change_near(line, at, hot, cold)) <= 1, (layer, x, k)


def test_a_layer_is_blended_over_the_tissue_and_ends_with_it(page, facts):
    page.go(f"#s={page.ids()['tumour']}&l=feature:0&o=0.5&v=none")
    shown = page.screenshot("viewer")
    middle = page.at((facts.left + facts.right) / 2, (facts.top + facts.bottom) / 2)
    blended = (np.array(facts.TUMOUR) + np.array(facts.FIRST)) / 2
    assert near(shown[round(middle[1]), round(middle[0])], blended, 12)
    glass = page.at(150, 150)
    assert near(shown[round(glass[1]), round(glass[0])], facts.GLASS, 8)
    page.page.keyboard.press("h")
    page.settle()
    shown = page.screenshot()
    assert near(shown[round(middle[1]), round(middle[0])], facts.TUMOUR, 12)


@pytest.mark.parametrize(("turn", "flip", "quadrant"), [
    (0, 0, (1, 1)), (90, 0, (-1, 1)), (180, 0, (-1, -1)), (270, 1, (-1, -1)), (0, 1, (-1, 1)),
])  # fmt: skip
def test_turned_and_flipped_the_heatmap_stays_on_the_slide(page, facts, turn, flip, quadrant):
    for layer, hot in (("none", facts.TUMOUR), ("feature:0", facts.FIRST)):
        page.go(
            f"#s={page.ids()['tumour']}&x={facts.left}&y={facts.top}&k=0.5&r={turn}&f={flip}&l={layer}&o=1&v=none"
        )
        shown, (column, row) = page.screenshot(), page.at(facts.left, facts.top)
        found = [
            (dx, dy) for dx in (-1, 1) for dy in (-1, 1)
            if near(shown[round(row + 3 * dy), round(column + 3 * dx)], hot)
        ]  # fmt: skip
        assert found == [quadrant], layer


def test_the_list_shows_scores_errors_and_finds_slides(page):
    page.page.keyboard.press("/")
    names = page.page.locator("#slides .name").all_text_contents()
    assert names == ["tumour", "normal", "broken"]
    assert "the disk is gone" in page.page.locator("#slides .broken").inner_text()
    assert page.page.locator("#slides [aria-current]").inner_text().startswith("tumour")
    page.page.keyboard.type("norm")
    assert page.page.locator("#slides .name").all_text_contents() == ["normal"]
    page.page.locator("#search").fill("")
    page.page.locator("#zoom-in").focus()
    page.page.keyboard.press("n")
    page.settle()
    assert page.page.locator("#title").inner_text() == "normal"
    assert page.parts()["s"] == page.ids()["normal"]
    page.page.keyboard.press("n")
    page.page.wait_for_selector(".notice:has-text('the disk is gone')")
    page.page.go_back()
    page.settle()
    assert page.page.locator("#title").inner_text() == "normal"


def test_moving_and_zooming_by_pointer_and_keys_say_where_one_is(page, facts):
    page.page.keyboard.press("0")
    page.settle()
    before = page.parts()
    box = page.page.locator(".pane").bounding_box()
    x, y = box["x"] + 500, box["y"] + 400
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x - 120, y - 40, steps=5)
    page.page.wait_for_timeout(200)  # so that it is no throw
    page.page.mouse.move(x - 121, y - 40)
    page.page.mouse.up()
    page.settle()
    after, k = page.parts(), float(before["k"])
    assert (float(after["x"]) - float(before["x"])) * k == pytest.approx(121, abs=12)
    page.page.mouse.wheel(0, -100)
    page.page.keyboard.press("+")
    page.settle()
    assert float(page.parts()["k"]) > 1.4 * k
    page.page.keyboard.press("1")
    page.settle()
    assert float(page.parts()["k"]) == pytest.approx(1)
    assert page.page.locator("#magnification").inner_text() == "50×"  # 0.2 um a pixel
    assert page.page.locator("#scale-text").inner_text() == "20 µm"
    assert page.page.locator("#scale-bar").bounding_box()["width"] == pytest.approx(100, abs=1)
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    now = page.parts()
    shown = page.page.locator("#position").inner_text()
    told = [int(part.replace(",", "").split()[0]) for part in shown.split(" · ")[1].split(", ")]
    assert told == pytest.approx([float(now["x"]), float(now["y"])], abs=1.5)
    page.page.keyboard.press("0")
    page.settle()
    assert float(page.parts()["k"]) == pytest.approx(k, rel=0.01)


def test_layers_are_switched_cut_and_drawn_aside_like_a_curtain(page, facts):
    page.go(f"#s={page.ids()['tumour']}&l=probability&o=1&v=none")
    assert page.page.locator("#legend-title").inner_text() == "tumour probability"
    assert page.page.locator("#legend-high").inner_text() == "1"
    middle = page.at((facts.left + facts.right) / 2, (facts.top + facts.bottom) / 2)
    beside = page.at(facts.left - 400, (facts.top + facts.bottom) / 2)
    page.page.locator("#threshold").fill("100")
    page.settle()
    shown = page.screenshot()
    assert near(shown[round(beside[1]), round(beside[0])], facts.TISSUE, 14)  # 0.05 is below the threshold
    assert not near(shown[round(middle[1]), round(middle[0])], facts.TUMOUR)
    assert page.parts()["t"] == "0.5"

    page.page.locator("#curtained").check()
    handle = page.page.locator(".curtain").bounding_box()
    page.page.mouse.move(handle["x"] + 15, handle["y"] + 300)
    page.page.mouse.down()
    page.page.mouse.move(middle[0] - 20, handle["y"] + 300, steps=4)
    page.page.mouse.up()
    page.settle()
    shown, edge = page.screenshot("curtain"), middle[0] - 20
    assert near(shown[round(middle[1]), round(edge) + 4], facts.TUMOUR, 14)
    assert not near(shown[round(middle[1]), round(edge) - 4], facts.TUMOUR)
    page.page.locator(".curtain").press("End")
    page.settle()
    assert page.parts()["c"] == "1"

    page.page.locator("#layer").select_option("column")
    page.page.locator("#column").fill("3")
    page.page.locator("#column").press("Enter")
    page.settle()
    assert page.parts()["l"] == "feature:3"
    page.page.locator("[data-outline=predicted]").check()
    page.settle()
    assert page.parts()["v"] == "predicted"
    page.page.locator("#curtained").uncheck()
    page.page.locator("#opacity").fill("0")
    page.settle()
    edge, shown = page.at(facts.left, (facts.top + facts.bottom) / 2), page.screenshot()
    line = shown[round(edge[1]), round(edge[0]) - 4 : round(edge[0]) + 5]
    assert (
        np.abs(line - np.array([0, 114, 178])).sum(-1).min() < 60
    )  # the predicted outline runs along the lesion


def test_a_patch_that_is_clicked_is_shown_with_its_values_and_those_alike(page, facts):
    page.go(f"#s={page.ids()['tumour']}&l=probability&v=none")
    page.page.mouse.click(*page.at(facts.left + 1.5 * facts.PATCH, facts.top + 0.5 * facts.PATCH))
    page.page.wait_for_selector("#patch:not([hidden])")
    values = page.page.locator("#patch-values").inner_text()
    assert "0.95" in values
    assert f"{facts.left + facts.PATCH:,}, {facts.top:,} px" in values
    page.page.wait_for_selector("#neighbours img", timeout=60_000)
    names = page.page.locator("#neighbours span").all_text_contents()
    assert len(names) == 12
    assert set(names) == {"tumour"}  # nothing in the other slide looks like the lesion
    picture = page.page.locator("#patch-picture")
    picture.evaluate("(image) => image.decode()")
    assert picture.evaluate("(image) => image.naturalWidth") == facts.PATCH  # every pixel of it
    page.screenshot("patch")

    page.page.mouse.click(*page.at(150, 150))  # glass: nothing is asked for that is not there
    page.page.wait_for_selector("#no-patch:not([hidden])")

    page.page.locator("#gallery .tile").first.click()
    page.settle()
    now = page.parts()
    assert facts.left < float(now["x"]) < facts.right
    assert facts.top < float(now["y"]) < facts.bottom
    assert float(now["k"]) > 0.5


def test_the_address_restores_the_whole_view(page, visit, facts):
    ids = page.ids()
    page.go(
        f"#s={ids['tumour']}&x={facts.left}&y={facts.top}&k=0.37&r=90&f=1&l=attention&o=0.7&m=ember&t=2&c=0.6&smooth=1&v=regions,predicted"
    )
    parts, shown = page.parts(), page.screenshot()
    assert (parts["x"], parts["y"], parts["r"], parts["f"]) == (
        f"{facts.left}.0",
        f"{facts.top}.0",
        "90",
        "1",
    )
    assert (parts["l"], parts["o"], parts["m"], parts["t"], parts["c"]) == (
        "attention",
        "0.7",
        "ember",
        "2",
        "0.6",
    )
    assert parts["v"] == "regions,predicted"
    again = visit("#" + page.page.url.partition("#")[2])
    assert again.parts() == parts
    stage = np.s_[60:830, 340:1130]  # between the tools and the panel
    assert np.abs(again.screenshot() - shown)[stage].mean() < 0.5
    for nonsense in (
        "#s=nope&x=1",
        "#s=&&&=%",
        f"#s={ids['tumour']}&x=NaN&k=-3&o=9&l=nope&m=nope&v=nope,%00",
    ):
        page.go(nonsense)
        assert page.page.locator("#title").inner_text() == "tumour"


def place(page) -> tuple:
    """Slide, place and layers of the address, which the page may have spelt out or not yet."""
    parts = page.parts()
    return parts["s"], *(float(parts[key]) for key in "xyk"), parts["l"], parts["v"]


def test_of_two_addresses_the_newer_is_shown_though_the_slide_is_still_being_opened(page):
    before, normal = place(page), page.ids()["normal"]
    page.page.evaluate(f"location.hash = '#s={normal}&x=3200&y=2400&k=0.2&l=none&v=none'")
    page.go(f"#s={normal}&x=1000&y=1200&k=0.5&l=none&v=none")
    assert place(page) == (normal, 1000.0, 1200.0, 0.5, "none", "none")
    page.page.evaluate("history.go(-2)")
    page.page.locator("#title", has_text="tumour").wait_for()
    page.settle()
    assert place(page) == before


def test_while_layers_are_looked_for_nobody_is_told_that_there_are_none(visit):
    """Of a run they take seconds: torch is loaded, and the model asked."""
    page, held = visit(), []
    page.page.route("**/layers", lambda route: held.append(route))
    page.page.reload()
    page.page.wait_for_selector("#no-layers:has-text('Looking for layers')")
    until = time.monotonic() + 10
    while not held and time.monotonic() < until:  # the words may come before the request is on its way
        page.page.wait_for_timeout(50)
    assert held
    for route in held:
        route.continue_()
    page.page.unroute("**/layers")
    page.settle()
    assert page.page.locator("#no-layers").is_hidden()


def test_two_slides_move_together(page, facts):
    page.page.keyboard.press("x")
    page.settle()
    page.page.locator("#slides button", has_text="normal").click()
    page.settle()
    ids = page.ids()
    assert (page.parts()["s"], page.parts()["b.s"]) == (ids["tumour"], ids["normal"])
    first = page.page.locator(".pane").first.bounding_box()
    page.page.mouse.move(first["x"] + 200, first["y"] + 300)
    page.page.mouse.wheel(0, -300)
    page.settle()
    parts = page.parts()
    for name in "xyk":
        assert float(parts[f"b.{name}"]) == pytest.approx(float(parts[name]), rel=1e-3)
    page.screenshot("side-by-side")
    page.page.keyboard.press("l")
    page.page.mouse.wheel(0, -300)
    page.settle()
    assert float(page.parts()["k"]) > 1.2 * float(page.parts()["b.k"])
    page.page.keyboard.press("x")
    page.settle()
    assert page.page.locator(".pane").count() == 1


def test_the_help_and_names_for_screen_readers(page):
    page.page.keyboard.press("?")
    assert page.page.locator("#help").is_visible()
    assert "Next slide" in page.page.locator("#keys").inner_text()
    page.page.keyboard.press("Escape")
    assert not page.page.locator("#help").is_visible()
    unnamed = page.page.evaluate(UNNAMED)
    assert unnamed == []
    ids = page.page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_everything_is_a_drawer_away(visit, scheme, facts):
    page = visit(width=390, height=844, scheme=scheme, has_touch=True)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.page.locator("#fold-left").click()
    page.screenshot(f"phone-list-{scheme}")
    page.page.locator("#slides button", has_text="tumour").click()
    page.settle()
    assert not page.page.locator("#slides-panel").is_visible()
    page.page.locator("#fold-right").click()
    assert page.page.locator("#layer").is_visible()
    shown = page.screenshot(f"phone-{scheme}")
    dark = shown[20, 200].mean() < 80
    assert dark == (scheme == "dark")
    page.page.locator("#side-panel .close").click()
    assert not page.page.locator("#layer").is_visible()


def test_the_theme_is_kept(visit):
    page = visit(scheme="dark")
    page.screenshot("dark")
    page.page.locator("#theme").click()
    assert page.screenshot()[20, 700].mean() > 200
    page.open()
    assert page.screenshot()[20, 700].mean() > 200


def test_a_slide_without_small_levels_is_seen_at_once_and_finer_as_it_is_read(
    pages_of, serve, tmp_path, write_slide, picture
):
    pixels = picture(8192, 6144)
    write_slide(
        tmp_path / "a.tif", pixels, tile=128
    )  # 3,072 tiles, more than are decoded while somebody waits
    with serve(tmp_path) as address:
        page = pages_of(address)()
        assert page.page.locator(".reading").is_hidden()
        assert [each["coarse"] for each in page.page.evaluate(SLIDE)["levels"]] == [False] * 3 + [True] * 2
        shown = page.screenshot()
        for x, y in ((1000, 900), (4000, 3000), (7000, 5000)):
            column, row = page.at(x, y)
            assert near(shown[round(row), round(column)], pixels[y, x], 6)
        assert page.page.locator("#slides img").first.get_attribute("src").endswith("&read=1")
