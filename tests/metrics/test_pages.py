"""The pages over HTTP: a token of their own, one rendering for all who ask at once, none of it on the event loop."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Iterable

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ciuic_jupyter.control.metrics_routes import PAGES, Page, metrics_token
from tests.control.test_app import TOKEN, Served
from tests.metrics.pages import families


@pytest.mark.parametrize("path", PAGES)
async def test_the_scrapers_token_opens_the_pages_and_nothing_else(served: Served, path: str) -> None:
    settings = served.cloud.settings
    scraper = {"Authorization": f"Bearer {metrics_token(settings)}"}
    answer = await served.http.get(path, headers=scraper)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert families(answer.text) or path.endswith("devices")
    assert (await served.http.get(path)).status_code == 401  # the plane's own token is not for scrapers
    for method, other in served.routes():
        if method != "WS" and other not in PAGES and other != "/v1/challenge":
            given = await served.http.request(method, other.replace("{name}", "s"), headers=scraper, json={})
            assert given.status_code == 401, other
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert (await served.http.request(method, path, headers=scraper)).status_code == 405
    token = settings.state_dir / "metrics.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text() not in (TOKEN, "")
    assert metrics_token(settings) == token.read_text()  # it stays


class Slow(Collector):
    """Waits in its thread until the test lets it go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.threads: set[int] = set()
        self.go = threading.Event()

    def collect(self) -> Iterable[Metric]:
        self.calls += 1
        self.threads.add(threading.get_ident())
        assert self.go.wait(20)
        return []


async def test_who_asks_during_a_rendering_gets_that_one_and_the_loop_goes_on() -> None:
    slow = Slow()
    page = Page(slow)
    asked = [asyncio.create_task(page.text()) for _ in range(50)]
    impatient = asyncio.create_task(page.text())
    while not slow.calls:  # noqa: ASYNC110 - a thread begins
        await asyncio.sleep(0.001)  # the loop turns while the page is made
    impatient.cancel()
    page._begun -= 9.0  # a page that takes long is still the only one
    asked.append(asyncio.create_task(page.text()))
    await asyncio.sleep(0)
    slow.go.set()
    assert set(await asyncio.gather(*asked)) == {b""}
    assert slow.calls == 1 and threading.get_ident() not in slow.threads
    page._begun += 9.0
    await page.text()
    assert slow.calls == 1  # within a second
    page._begun -= 1.0
    await page.text()
    assert slow.calls == 2


async def test_a_page_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.go.set()
    page = Page(slow)
    with monkeypatch.context() as broken:
        broken.setattr(slow, "collect", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await page.text()
    page._begun -= 1.0
    assert await page.text() == b""
