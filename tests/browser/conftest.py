"""The demo's pronunciation model behind a server, and a browser whose pages tell what goes wrong in them."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from page_server import Served, serving
from playwright.sync_api import Browser, Page, expect, sync_playwright

from encdec_eqx.text import TextToText

SCREENSHOTS = Path(__file__).parents[2] / "build" / "browser"
CHROMIUM = "ENCDEC_EQX_CHROMIUM"


@pytest.fixture(scope="session")
def speaker() -> TextToText:
    """The demo's own model, which the package holds."""
    with resources.as_file(resources.files("encdec_eqx.demo").joinpath("assets/pronounce")) as folder:
        return TextToText.from_pretrained(folder)


@pytest.fixture(scope="session")
def served(speaker: TextToText) -> Iterator[Served]:
    """It behind HTTP."""
    with serving(speaker) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    path = os.environ.get(CHROMIUM) or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FileNotFoundError(f"no browser: `apt-get install chromium`, or name a Chrome by {CHROMIUM}=/its/path.")
    with sync_playwright() as playwright:
        # as root, which is what containers run as, it takes --no-sandbox
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class _Watched:
    """What a page has asked for and complained of, and the refusals that its test means to see."""

    page: Page
    refusals: tuple[int, ...]
    urls: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def unexpected(self) -> list[str]:
        known = [f"status of {status} " for status in self.refusals]
        return [line for line in self.complaints if not any(status in line for status in known)]


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Opens the page: `visit(width=390, color_scheme="dark")`.

    Afterwards no page has asked any other host for anything, nor written a line on its console, but of the statuses
    that the test named as `refusals`.
    """
    watched: list[_Watched] = []

    def open_page(
        *,
        width: int = 1280,
        height: int = 900,
        refusals: tuple[int, ...] = (),
        before: Callable[[Page], None] = lambda page: None,
        address: str = "",
        **options: Any,
    ) -> Page:
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        watched.append(_Watched(page, refusals))
        watched[-1].listen()
        before(page)
        page.goto(f"{served.url}/{address}")
        expect(page.locator("#searches input").first).to_be_attached()
        return page

    yield open_page
    for each in watched:
        each.page.context.close()
        assert each.urls and all(url.startswith(served.url + "/") for url in each.urls)
        assert not each.unexpected()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of pages are kept for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
