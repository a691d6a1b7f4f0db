"""Figures: drawn without touching the caller's matplotlib, and as SVG that a page can hold."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from angularkd.reports.drawing import SERIES, STUDENT, VARIABLES, Plot, draw, legend, ticks_of_names


def bars(*names: str) -> Plot:
    def draw_bars(figure) -> None:
        axes = figure.subplots()
        axes.plot(range(len(names)), color=STUDENT, label=names[0], marker="o")
        ticks_of_names(axes, names)
        legend(figure, axes)

    return Plot("bars", "Bars", "about", draw_bars)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag == "text"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$x$", "$\\frac{1", "a & b", "שלום", "🐈", "]]>", "url(#m)"]
)
def test_names_are_text_whatever_they_are(name) -> None:
    found = draw(bars(name, "other")).svg
    assert texts(found).count(name) == 2  # the tick and the legend
    assert "<script" not in found


def test_colours_follow_the_page(tmp_path) -> None:
    found = draw(bars("a", "b"), tmp_path).svg
    assert "var(--series-0)" in found and STUDENT not in found
    assert STUDENT in (tmp_path / "bars.svg").read_text()
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_the_stylesheet_knows_every_colour_for_both_schemes() -> None:
    from importlib.resources import files

    sheet = (files("angularkd.reports") / "template/report.css").read_text()
    for colour, variable in VARIABLES.items():
        assert sheet.count(f"{variable}:") == 3, variable  # light, dark by the system, dark by the button
        assert f"{variable}: {colour};" in sheet
    assert len(set(SERIES)) == len(SERIES)


def test_ids_of_two_figures_differ_and_are_found() -> None:
    first, second = draw(bars("a", "b")).svg, draw(Plot("other", "Other", "", bars("a", "b").draw)).svg
    ids = [
        element.get("id")
        for svg in (first, second)
        for element in ElementTree.fromstring(svg).iter()
        if element.get("id")
    ]
    assert len(set(ids)) == len(ids)
    for element in ElementTree.fromstring(first).iter():
        if (reference := element.get("href")) is not None:
            assert reference.removeprefix("#") in ids


def test_the_same_figure_is_the_same_text() -> None:
    assert draw(bars("a", "b")).svg == draw(bars("a", "b")).svg


def test_the_callers_style_is_neither_used_nor_changed() -> None:
    import matplotlib

    before = draw(bars("a", "b")).svg
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "#123456"}):
        assert draw(bars("a", "b")).svg == before
        assert matplotlib.rcParams["font.size"] == 31
    assert not matplotlib.rcParams["text.usetex"]


def test_no_figure_of_the_callers_is_made() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    draw(bars("a", "b"))
    assert pyplot.get_fignums() == before
