"""The page to look at a clip, in a real browser where there is one."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.clip import Clip
from common.viewer import packed, page
from tests import browser
from tests.made_clips import made_clip

HOSTILE = (
    "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
)
NEEDS_BROWSER = pytest.mark.skipif(
    not browser.IS_THERE, reason="no chromium and chromedriver: apt-get install chromium-driver"
)


def hostile_clip(frames: int = 40) -> Clip:
    """Titles and names of joints as a file could bring them, prediction and truth, with places."""
    clip = made_clip(frames=frames, placed=True, title=HOSTILE, fps=30.0)
    skeleton = replace(clip.skeleton, names=("Hip", HOSTILE, *clip.skeleton.names[2:]))
    return replace(clip, skeleton=skeleton, truth=clip.poses + 0.02)


def test_numbers_come_back():
    values = np.random.default_rng(0).normal(size=(5, 17, 3))
    values[2, 3] = np.nan
    whole = packed(values)
    found = np.frombuffer(base64.b64decode(whole["data"]), "<i2") * whole["step"]
    found = found.reshape(values.shape)
    assert np.abs(found - values)[np.isfinite(values)].max() < 1e-3 * np.nanmax(np.abs(values)) / 10
    assert (found[2, 3] == -32768 * whole["step"]).all()


def test_texts_cannot_end_the_data():
    text = page(hostile_clip())
    data = re.search(r'<script type="application/json" id="clip">(.*?)</script>', text, re.S)[1]
    assert json.loads(data)["title"] == HOSTILE and "<" not in data
    assert text.count("<script") == 2 and "http" not in re.sub(r"http-equiv", "", text)


def test_a_minute_is_below_two_megabytes():
    assert len(page(hostile_clip(50 * 60)).encode()) < 2e6


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory):
    """A browser that shows the page."""
    path = tmp_path_factory.mktemp("page") / "a<b> & 'c'.html"
    path.write_text(page(hostile_clip()), encoding="utf-8")
    with browser.started_browser() as shows:
        shows.open(path)
        yield shows, path


def number(shows: browser.Browser) -> int:
    return shows.run("return state.image")


def picture(shows: browser.Browser) -> str:
    return shows.run("draw(); return document.getElementById('view').toDataURL()")


@NEEDS_BROWSER
def test_it_plays_scrubs_and_slows_down(shown):
    shows, _ = shown
    assert shows.run("return document.getElementById('number').textContent") == "image 0 of 39"
    shows.run("play(true); passed = 3 / 30; before = 0; return 0")
    assert (
        shows.run("draw(); return state.playing && document.getElementById('play').textContent")
        == "Pause"
    )
    moved = (
        "return new Promise(done => { const at = state.image; const look = () => "
        "state.image !== at ? done(true) : setTimeout(look, 10); look(); })"
    )
    assert shows.run(moved)
    shows.press(" ")
    assert not shows.run("return state.playing")
    shows.run("const s = document.getElementById('scrub'); s.value = 17; "
              "s.dispatchEvent(new Event('input'))")  # fmt: skip
    assert number(shows) == 17
    shows.press(".", ".", ",")
    assert number(shows) == 18
    # A fifth of a second is six images, at a quarter of the speed one and a half.
    advanced = []
    for speed in ("1", "0.25"):
        shows.run(f"document.getElementById('speed').value = '{speed}'")
        script = (
            "go(0); passed = 0; before = 0; state.playing = true; tick(200); "
            "state.playing = false; return state.image + passed"
        )
        advanced.append(shows.run(script))
    assert advanced == [pytest.approx(6), pytest.approx(1.5)]


@NEEDS_BROWSER
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_it_orbits(shown, kind):
    shows, _ = shown
    before, yaw = picture(shows), shows.run("return state.yaw")
    shows.drag((300, 250), (80, 20), kind)
    assert shows.run("return state.yaw") == pytest.approx(yaw - 0.8)
    assert picture(shows) != before
    shows.press("2")
    assert shows.run("return state.yaw") == pytest.approx(np.pi / 2)


@NEEDS_BROWSER
def test_two_fingers_zoom(shown):
    shows, _ = shown
    fingers = [browser.finger(f"finger{k}", "touch", (300 + 20 * k, 250), (60 * k, 0))
               for k in (-1, 1)]  # fmt: skip
    shows.act(*fingers)
    assert shows.run("return state.zoom") == pytest.approx(4, rel=0.1)


@NEEDS_BROWSER
def test_it_follows_or_stands_still_and_compares(shown):
    shows, _ = shown
    shows.run("play(false); state.zoom = 1; look('side'); go(3)")
    for switch in ("follow", "truth"):
        before = picture(shows)
        assert picture(shows) == before
        shows.run(f"document.getElementById('{switch}').click()")
        assert picture(shows) != before


@NEEDS_BROWSER
def test_hostile_texts_stay_text_and_nothing_is_asked_for(shown):
    shows, path = shown
    assert shows.run("return document.getElementById('title').textContent") == HOSTILE
    shows.run("state.joint = 1; draw()")
    assert shows.run("return document.getElementById('joint').textContent") == HOSTILE
    assert shows.run("return document.title") == HOSTILE
    assert shows.run("return document.images.length") == 0
    assert [entry["message"] for entry in shows.log("browser")] == []
    assert set(shows.requests()) <= {Path(path).as_uri()}
