"""The page, in a real browser (Debian's chromium and Playwright; skipped where they are not)."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import CAMERAS, Running, jpeg

from crosscam.decision import fit
from crosscam.decision.trials import of_pairs
from crosscam.gallery import Item
from crosscam.serve.app import make_app
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Running]]:
    """A service on a free port of loopback."""
    import uvicorn

    calibration = fit(
        of_pairs([0.95] * 50 + [i / 100 for i in range(50)], [True] * 50 + [False] * 50),
        model="m", data="toys",
    )  # fmt: skip
    running = Running(
        tmp_path_factory.mktemp("page"),
        ServiceSettings(retention_days=0, per_minute=6000),
        calibration=calibration,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(make_app(running.service), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/", running
    server.should_exit = True
    thread.join()
    running.service.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(served: tuple[str, Running], browser: Any) -> Iterator[Any]:
    """A page signed in as admin; any error in its console fails the test."""
    address, running = served
    opened = browser.new_page(viewport={"width": 1100, "height": 800})
    faults: list[str] = []
    opened.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: faults.append(str(e)))
    opened.set_default_timeout(20_000)
    opened.goto(address)
    opened.fill("#token", running.secrets[Role.ADMIN])
    opened.click("#login button")
    opened.wait_for_selector("#f-cameras input")
    yield opened
    opened.close()
    assert not faults


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits; the browser's own waiting needs eval, which the page forbids."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.05)


def upload(page: Any, tmp_path: Path, pid: int) -> None:
    (tmp_path / "q.jpg").write_bytes(jpeg(pid, 1, 9))
    page.set_input_files("#files", [str(tmp_path / "q.jpg")])


def test_search_confirm_and_forget_with_a_receipt(page: Any, tmp_path: Path) -> None:
    upload(page, tmp_path, 2)
    page.fill("#f-reason", "lost child")
    page.click("#go")
    page.wait_for_selector("#results li")
    assert page.locator("#results li").count() > CAMERAS
    assert "%" in page.locator("#results li b").first.inner_text()
    # Calibrated on a list of pairs: probabilities, but no decision on a whole gallery.
    assert "Ranked, not decided" in page.locator("#verdict").inner_text()
    assert page.locator("#timeline circle").count() == page.locator("#results li").count()
    until(lambda: page.evaluate("document.querySelector('#results img').naturalWidth > 0"))

    page.fill("#judge-name", "Ada / 100% Ex?&ple")
    page.locator("#results li button:has-text('Confirm')").first.click()
    page.wait_for_selector("#results .tag.match:has-text('Ada / 100% Ex?&ple')")
    before = page.locator("#results li").count()
    page.locator("#results li button:has-text('Reject')").first.click()
    until(lambda: page.locator("#results li").count() == before - 1)

    page.click("nav button[data-view=people]")
    page.click("#people button:has-text('Ada / 100% Ex?&ple')")
    page.wait_for_selector("#person .card")
    said = page.locator("#person").inner_text()
    assert "1 sighting by 1 camera" in said
    assert "1 confirmed, 1 rejected" in said
    page.click("#person button:has-text('Forget')")
    page.wait_for_selector("dialog:has-text('1 sighting is deleted for good')")
    page.click("dialog button:has-text('Delete for good')")
    page.wait_for_selector("#person dt:has-text('Receipt')")
    assert "Ada / 100% Ex?&ple" not in page.locator("#people").inner_text()

    page.click("nav button[data-view=audit]")
    page.wait_for_selector("#audit tbody tr")
    table = page.locator("#audit").inner_text()
    assert "forget" in table
    assert "lost child" in table
    assert "Ada" not in table
    assert "hashes is whole" in page.locator("#chain").inner_text()


def test_a_name_is_taken_off(page: Any, served: tuple[str, Running]) -> None:
    running = served[1]
    running.service.gallery.people.enroll("Zed", [running.id_of(6, 1), running.id_of(6, 2)])
    page.click("nav button[data-view=people]")
    page.click("#people button:has-text('Zed')")
    page.wait_for_selector("#person button:has-text('Take the name off'):disabled")
    page.locator("#person .shot").first.click()
    page.click("#person button:has-text('Take the name off 1')")
    page.wait_for_selector("#person p:has-text('1 sighting by 1 camera')")
    page.locator("#person .shot").first.click()
    page.click("#person button:has-text('Take the name off 1')")
    page.wait_for_selector("#person:has-text('Nobody has that name any more')")
    assert running.service.gallery.people.names().get("Zed") is None


def test_the_keyboard_is_enough(page: Any, served: tuple[str, Running]) -> None:
    page.click("nav button[data-view=browse]")
    page.wait_for_selector("#sightings .shot")
    page.locator("#sightings .shot").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Enter")  # the first button: search for this person
    page.wait_for_selector("#asked li")
    page.locator("#f-top").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_wider_than_the_window(width: int, page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    upload(page, tmp_path, 3)
    page.click("#go")
    page.wait_for_selector("#results li")
    for view in ("search", "browse", "people", "audit", "about"):
        page.click(f"nav button[data-view={view}]")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_signing_out_leaves_nothing_in_the_tab(page: Any) -> None:
    page.click("nav button[data-view=browse]")
    page.wait_for_selector("#sightings li")
    page.click("#leave")
    page.wait_for_selector("#view-login:not([hidden])")
    assert page.locator("#sightings li").count() == 0
    assert json.loads(page.evaluate("JSON.stringify({...sessionStorage})")) == {}


def test_a_wrong_token_says_so(served: tuple[str, Running], browser: Any) -> None:
    page = browser.new_page()
    page.goto(served[0])
    page.fill("#token", "cc_wrong")
    page.click("#login button")
    page.wait_for_selector("#status.bad")
    assert "not valid" in page.locator("#status").inner_text()
    page.close()


def test_a_long_list_goes_on_when_asked(page: Any, served: tuple[str, Running]) -> None:
    rng = np.random.default_rng(0)
    items = [Item(rng.integers(0, 256, (8, 4, 3), np.uint8), camera="many") for _ in range(250)]
    ids = set(served[1].service.gallery.add(items).ids)
    page.click("nav button[data-view=browse]")
    page.wait_for_selector("#sightings li")
    page.select_option("#b-camera", "many")
    page.click("#browse button")
    cards = page.locator("#sightings li")
    for count in (120, 240, 250):
        until(lambda count=count: cards.count() == count)
        if count < 250:
            page.click("#more")
    until(lambda: page.locator("#more").count() == 0)
    shown = page.evaluate(
        "[...document.querySelectorAll('#sightings li')].map((i) => i.dataset.id)"
    )
    assert (len(shown), set(shown)) == (250, ids)
