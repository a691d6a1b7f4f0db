"""The page in a real browser: nothing is loaded, nothing complains, the slider moves the picture, hostile names are text."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from angularkd.losses import AMDLoss

SHOWN = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)<",
    "$x^2$ and $\\frac{1",
    "a name that goes on ",
    "שלום עולם",
    "🐈 cat &",
)
"""The hostile names as they are to be read, without what is left out of the middle of long ones."""
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


@dataclass
class Opened:
    """A page, with what it has asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def until(reached: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so: the page's policy lets no playwright wait inside of it."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def shown_margin(page: Any) -> str:
    return page.evaluate("document.getElementById('margin-value').textContent")


def picture(page: Any) -> str:
    return page.evaluate("document.querySelector('.tile:not([hidden]) canvas[data-role=student]').toDataURL()")


@pytest.fixture
def opened(browser, hostile_report: Path) -> Iterator[Any]:
    """Return a function that opens the report in a window of some size and scheme; nothing but files can be reached."""
    contexts = []

    def open_page(viewport: dict[str, int], scheme: str = "light", report: Path = hostile_report) -> Opened:
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: found.complaints.append(f"dialog {dialog.message}"))
        found.page.on(
            "console", lambda said: found.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        found.page.goto(report.as_uri())
        until(lambda: shown_margin(found.page) != "")
        return found

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "dark")])
def test_opens_without_a_complaint_or_a_request(opened, hostile_report, viewport, scheme) -> None:
    found = opened(viewport, scheme)
    assert found.complaints == []
    assert {url for url in found.requests if not url.startswith("data:")} == {hostile_report.as_uri()}
    assert found.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    dark = found.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_the_button_switches_between_light_and_dark(opened) -> None:
    page = opened(DESK).page
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == before


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")])
def test_several_runs_open_side_by_side(opened, hostile_comparison, viewport, scheme) -> None:
    """Each image shows the attention of every run; the slider moves each; the page fits, and complains of nothing."""
    found = opened(viewport, scheme, hostile_comparison)
    page = found.page
    roles = page.evaluate(
        "[...document.querySelector('.tile').querySelectorAll('canvas')].map(one => one.dataset.role)"
    )
    assert roles == ["teacher", "run", "<b>wide"]
    assert page.evaluate("[...document.querySelectorAll('.tile')].every(one => !one.dataset.distance)")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    before = pictures(page)
    assert len(set(before)) == len(roles), "each has its own attention"
    page.locator("#part").select_option("positive")
    until(lambda: all(one != other for one, other in zip(pictures(page), before, strict=True)))
    positive = pictures(page)
    set_margin(page, 2.0)
    assert all(one != other for one, other in zip(pictures(page), positive, strict=True))
    assert page.locator("#calibration svg").count() == len(roles)
    assert found.complaints == []
    assert {url for url in found.requests if not url.startswith("data:")} == {hostile_comparison.as_uri()}


def pictures(page: Any) -> list[str]:
    tile = "document.querySelector('.tile:not([hidden])')"
    return page.evaluate(f"[...{tile}.querySelectorAll('canvas')].map(one => one.toDataURL())")


def set_margin(page: Any, margin: float) -> None:
    page.evaluate(
        "m => { const slider = document.getElementById('margin'); slider.value = m; slider.dispatchEvent(new Event('input')); }",
        margin,
    )
    until(lambda: shown_margin(page) == f"{margin:.2f}")


@pytest.mark.parametrize("part", ["positive", "angular"])
def test_the_slider_changes_the_picture(opened, part) -> None:
    page = opened(PHONE).page
    attention = picture(page)
    page.locator("#part").select_option(part)
    until(lambda: picture(page) != attention)
    before = picture(page)
    set_margin(page, 2.0)
    assert picture(page) != before
    set_margin(page, 1.35)
    assert picture(page) == before


def test_the_margin_moves_neither_attention_nor_the_negative_part(opened) -> None:
    page = opened(DESK).page
    attention = picture(page)
    page.locator("#part").select_option("negative")
    until(lambda: picture(page) != attention)
    before = picture(page)
    set_margin(page, 2.0)
    assert picture(page) == before


@pytest.mark.parametrize("margin", [1.0, 1.35, 2.0])
def test_the_distances_are_those_of_the_loss(opened, margin) -> None:
    page = opened(DESK).page
    set_margin(page, margin)
    found = page.evaluate("[...document.querySelectorAll('.tile')].map(tile => Number(tile.dataset.distance))")
    stage = int(page.locator("#stage").input_value())
    data = json.loads(page.locator("#maps").text_content())
    size = (1, *data["stages"][stage]["sizes"][0])
    loss = AMDLoss(margin=margin)
    for maps, distance in zip(data["maps"], found, strict=True):
        teacher, student = (
            torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").reshape(size).copy()) for text in maps[stage]
        )
        assert distance == pytest.approx(loss([student], [teacher]).item(), rel=1e-3, abs=1e-7)


def test_images_can_be_chosen_by_agreement(opened) -> None:
    page = opened(DESK).page
    total = page.locator(".tile").count()
    counts = {}
    for which in ("agree", "differ", "all"):
        page.locator("#which").select_option(which)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        counts[which] = page.locator(".tile:visible").count()
    assert counts["agree"] + counts["differ"] == counts["all"] == total


def test_hostile_names_are_text(opened) -> None:
    page = opened(PHONE).page
    text = page.evaluate("document.body.textContent")
    for name in SHOWN:
        assert name in text, name
    assert page.evaluate(
        "document.querySelectorAll('main img').length === document.querySelectorAll('.tile img').length"
    )
    assert page.evaluate("[...document.scripts].filter(each => !each.type).length") == 1
    assert page.evaluate("document.querySelectorAll('[onerror], [onload], iframe, object, link').length") == 0
