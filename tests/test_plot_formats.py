"""The drawing of the formats shows what the table says."""

from data.keypoint_formats import FORMATS
from tests.conftest import ROOT
from tools import plot_formats


def test_every_point_is_drawn_with_its_number_and_on_its_side():
    for form in FORMATS.values():
        shown = plot_formats.point_set(form)
        drawn = {name: number for name, (_, _, number) in shown.points.items()}
        named = {name: i for i, name in enumerate(form.points) if not name.startswith("unused")}
        assert drawn == named
        for name, (x, _, _) in shown.points.items():  # who faces us has the left on our right
            if "left" in name or name[:2] in ("LH", "LK", "LF", "LS", "LE", "LW"):
                assert x > 0, name
        assert {"Hip", "Spine", "Thorax", "Head"} <= set(shown.made)
        assert all(abs(x) < 1e-9 for x, _ in shown.made.values())


def test_the_page_has_the_orders_of_the_table():
    page = (ROOT / "docs" / "own-data.md").read_text()
    for form in FORMATS.values():
        assert f"`{form.word}`" in page
        if not form.word.startswith("h36m"):
            assert f"| `{form.word}` | {', '.join(form.points)} |" in page


def test_the_drawing_is_written_once(call, tmp_path):
    picture = tmp_path / "p.png"
    assert call(plot_formats.main, "-o", picture)[0] == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    status, _, err = call(plot_formats.main, "-o", picture)
    assert status == 2 and "--force" in err
