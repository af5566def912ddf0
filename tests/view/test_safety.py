"""The faults that viewers ship, each as a request that must be refused."""

from __future__ import annotations

import json

import pytest

from wsi_vmamba.view.safety import is_loopback
from wsi_vmamba.view.sources import folder_source

BODY = b'{"type":"FeatureCollection","features":[]}'


@pytest.fixture
def folder(tmp_path, picture, write_slide):
    write_slide(tmp_path / "slides" / "a.tif", picture(300, 300))
    write_slide(tmp_path / "slides-secret" / "b.tif", picture(300, 300))
    return tmp_path / "slides"


def paths(viewer):
    """Every route, asked as the page does."""
    one = f"/slides/{viewer.context.catalogue.items()[0].row.id}"
    return [
        "/", "/static/viewer.js", "/session", "/slides", one, f"{one}/tiles/0/0_0.jpg", f"{one}/thumbnail.jpg",
        f"{one}/region.jpg?x_l0=0&y_l0=0&width_l0=9&height_l0=9", f"{one}/layers", f"{one}/layers/attention",
        f"{one}/layers/attention.png", f"{one}/patches", f"{one}/patches/at?x_l0=1&y_l0=1", f"{one}/patches/0",
        f"{one}/patches/0/neighbours", f"{one}/drawings", f"{one}/label.jpg", f"{one}/coarse", "/nothing",
    ]  # fmt: skip


def test_the_paths_above_are_all_routes(view, folder):
    viewer = view(folder)
    known = {route.path for route in viewer.app._app.routes}
    assert len(known) == len({path for path in paths(viewer) if path != "/nothing"})


def test_every_route_needs_the_token_where_one_is_needed(view, folder):
    """A peer guards its pages and forgets its tiles."""
    viewer = view(folder, host="0.0.0.0")
    assert {viewer.get(path).status for path in paths(viewer)} == {401}
    wrong = f"{viewer.access.cookie}={'x' * 43}"
    assert {viewer.get(path, cookie=wrong).status for path in paths(viewer)} == {401}
    assert (
        viewer.put(
            f"/slides/{viewer.context.catalogue.items()[0].row.id}/drawings", BODY, if_match='"x"'
        ).status
        == 401
    )
    # The token opens the page, never a route by itself: it would stand in logs and histories.
    assert viewer.get(f"/slides?token={viewer.access.token}").status == 401
    assert viewer.get("/?token=wrong").status == 401
    assert viewer.get(f"/?token={viewer.access.token}&token=x").status == 401


def test_the_token_is_given_once_and_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(view, folder):
    viewer = view(folder, host="0.0.0.0")
    entrance = viewer.get(f"/?token={viewer.access.token}", host="192.168.1.7:8765")
    cookie, *flags = entrance.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
    assert b'content="0;url=/"' in entrance.body
    assert viewer.get("/slides", host="192.168.1.7:8765", cookie=f"a=b; {cookie}").status == 200
    assert len(viewer.access.token) >= 43


def test_on_this_machine_no_token_is_needed_unless_asked_for(view, folder):
    assert view(folder).get("/slides").status == 200
    assert view(folder, with_token=True).get("/slides").status == 401
    assert all(is_loopback(each) for each in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(each) for each in ("0.0.0.0", "10.0.0.1", "::", "host"))


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example:8765", "",
    "127.0.0.1@evil.example",
    "2130706433", "0x7f.1", "127.0.0.1:8765:1", "[::1", "10.0.0.1", "evil.example/127.0.0.1",
])  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(view, folder, host):
    viewer = view(folder)
    for path in paths(viewer):
        answer = viewer.get(path, host=host)
        assert (answer.status, answer.error) == (403, "forbidden_host")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost:9000", "[::1]:8765", "LOCALHOST"])
def test_names_of_this_machine_are_known_at_any_port_as_tunnels_have_it(view, folder, host):
    assert view(folder).get("/slides", host=host).status == 200


def test_two_hosts_are_refused(view, folder):
    viewer = view(folder)
    twice = {"host": "127.0.0.1", "Host": "evil.example"}
    import asyncio

    raw = [(b"host", each.encode()) for each in twice.values()]
    assert asyncio.run(viewer._ask("GET", "/slides", raw, b"")).status == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_get_nothing_not_even_pictures(view, folder, site):
    """Other servers on localhost are "same-site"."""
    viewer = view(folder)
    for path in paths(viewer):
        assert viewer.get(path, sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403
    followed = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert viewer.get("/", **followed).status == 200
    assert viewer.get("/slides", **followed).status == 403
    assert viewer.get("/", **{**followed, "sec_fetch_dest": "iframe"}).status == 403


def test_nothing_is_ever_allowed_to_other_origins(view, folder):
    """A peer answers Access-Control-Allow-Origin: * on loopback."""
    viewer = view(folder)
    for path in paths(viewer):
        viewer.get(path, origin="https://evil.example")
    viewer.ask(
        "OPTIONS", "/slides", {"origin": "https://evil.example", "access_control_request_method": "PUT"}
    )
    assert not [
        name for answer in viewer.seen for name in answer.headers if name.startswith("access-control")
    ]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", None, "http://127.0.0.1:1", "http://localhost:8765", "file://"]
)
def test_writes_come_from_the_own_page_only(view, folder, origin):
    viewer = view(folder)
    url = f"/slides/{viewer.id_of('a')}/drawings"
    tag = viewer.get(url).headers["etag"]
    answer = viewer.put(url, BODY, origin=origin, if_match=tag)
    assert (answer.status, answer.error) == (403, "forbidden_origin")
    assert not (folder / "drawings").exists()


def test_a_write_of_the_own_page_that_another_site_made_is_refused(view, folder):
    viewer = view(folder)
    url = f"/slides/{viewer.id_of('a')}/drawings"
    assert (
        viewer.put(url, BODY, sec_fetch_site="cross-site", if_match=viewer.get(url).headers["etag"]).status
        == 403
    )


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "SHUTDOWN"])
def test_there_is_no_other_way_to_change_anything(view, folder, method):
    viewer = view(folder)
    for path in [*paths(viewer), "/shutdown", "/api/shutdown", "/quit"]:
        assert viewer.ask(method, path).status == 405
    assert {viewer.put(path, BODY).status for path in paths(viewer) if not path.endswith("drawings")} <= {
        404,
        405,
    }


def test_no_get_leaves_a_trace_on_the_disk(view, folder):
    viewer = view(folder)
    before = sorted(folder.parent.rglob("*"))
    for path in paths(viewer):
        viewer.get(path)
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("name", [
    "../slides-secret/b.tif", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "/etc/passwd",
    "a.tif", "a%00.jpg", "\\\\server\\share\\x", "//server/share/x", "..\\..\\x", "%c0%ae%c0%ae/x", "s0000000000000000",
    "static/../../app.py",
])  # fmt: skip
def test_paths_from_outside_lead_nowhere(view, folder, name):
    viewer = view(folder)
    for path in (
        f"/slides/{name}",
        f"/slides/{name}/thumbnail.jpg",
        f"/slides/{name}/drawings",
        f"/static/{name}",
        f"/{name}",
    ):
        assert viewer.get(path).status == 404, path
    assert viewer.put(f"/slides/{name}/drawings", BODY, if_match='"x"').status in {404, 405}


def test_a_link_that_leaves_the_folder_is_listed_and_not_followed(view, folder):
    """A peer compares the letters of paths: slides-secret begins with slides."""
    (folder / "out.tif").symlink_to(folder.parent / "slides-secret" / "b.tif")
    (folder / "more").symlink_to(folder.parent / "slides-secret")
    (folder / "in.tif").symlink_to(folder / "a.tif")
    (folder / "round.tif").symlink_to(folder / "round.tif")
    viewer = view(folder)
    slides = viewer.slides()
    assert slides["in"]["error"] is None
    for name in ("out", "b"):
        assert "--follow-links" in slides[name]["error"]
        assert viewer.get(f"/slides/{slides[name]['id']}").status == 422
        assert viewer.get(f"/slides/{slides[name]['id']}/tiles/0/0_0.jpg").status == 422
        assert viewer.get(f"/slides/{slides[name]['id']}/thumbnail.jpg").status == 422
    followed = view(folder, follow_links=True).slides()
    assert followed["out"]["error"] is None


def test_the_headers_that_browsers_are_told_are_on_every_answer(view, folder):
    viewer = view(folder)
    for path in paths(viewer):
        viewer.get(path)
    viewer.get("/slides", host="evil.example")
    viewer.ask("POST", "/slides")
    for answer in viewer.seen:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_errors_name_neither_folders_nor_code(view, folder):
    (folder / "broken.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    (folder / "empty.svs").write_bytes(b"")
    viewer = view(folder)
    for name in ("broken", "empty"):
        one = f"/slides/{viewer.id_of(name)}"
        (
            viewer.get(one),
            viewer.get(f"{one}/tiles/0/0_0.jpg"),
            viewer.get(f"{one}/layers/attention"),
            viewer.get(f"{one}/patches/0"),
        )
    for path in paths(viewer):
        viewer.get(path)
    everything = b"".join(answer.body for answer in viewer.seen)
    assert str(folder.parent).encode() not in everything
    assert b"Traceback" not in everything
    assert b".py" not in everything.replace(b"numpy", b"")


def test_a_mistake_of_ours_is_said_in_one_line_with_all_headers(view, folder, monkeypatch):
    viewer = view(folder)
    one = viewer.id_of("a")

    def fail(*_, **__):
        raise ZeroDivisionError(str(folder))

    monkeypatch.setattr("wsi_vmamba.view.picture.SlidePicture.tile", fail)
    with pytest.raises(ZeroDivisionError):  # goes on to the server, which prints it into the terminal
        viewer.get(f"/slides/{one}/tiles/0/0_0.jpg")


def test_a_hostile_slide_is_listed_with_its_error_and_the_others_are_shown(view, folder):
    (folder / "bomb.tif").write_bytes(b"II+\0\x08\0\0\0" + b"\xff" * 500)
    (folder / "page.svs").write_bytes(b"<!doctype html><p>not found")
    viewer = view(folder)
    for _ in range(2):
        for item in viewer.context.catalogue.items():
            viewer.context.catalogue.look(item)
    slides = viewer.slides()
    assert slides["bomb"]["error"]
    assert "web page" in slides["page"]["error"]
    assert slides["a"]["size"] == {"width": 300, "height": 300}
    assert viewer.get(f"/slides/{slides['bomb']['id']}/tiles/0/0_0.jpg").error == "slide_unreadable"
    assert viewer.get(f"/slides/{slides['a']['id']}/tiles/0/0_0.jpg").status == 200


def test_texts_of_a_file_that_may_name_a_patient_are_not_told(view, tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(300, 300), description="Patient = Jane Doe")
    viewer = view(tmp_path)
    assert b"Jane" not in viewer.get(f"/slides/{viewer.id_of('a')}").body
    assert not view(folder_source(tmp_path, follow_links=False)).get("/session").json["show_labels"]


def test_ids_say_nothing_of_where_a_slide_lies_and_are_the_same_tomorrow(view, folder):
    first, second = view(folder).slides(), view(folder).slides()
    assert first["a"]["id"] == second["a"]["id"]
    assert str(folder) not in json.dumps(first)
