"""The Jupyter server's door: its own token, cookie, XSRF and Host rules hold for every route of the extension."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.security.conftest import Site
from tests.security.table import Room
from tests.server.test_routes import opened, signed_in, table

ROOM = Room("The Jupyter server extension")


def asked(site: Site, method: str, path: str, headers: dict[str, str]) -> int:
    if method == "WS":
        return opened(site.jupyter, path, headers)
    url = f"{site.jupyter.base}{path}"
    return requests.request(method, url, headers=headers, json={}, timeout=20, allow_redirects=False).status_code


@pytest.mark.parametrize(
    ("headers", "path"),
    ROOM.cases(
        {
            "every route without a token": ("403", {}, ""),
            "every route with a wrong token": ("403", {"Authorization": f"token {'0' * 32}"}, ""),
            "every route with the control plane's token": (
                "403: it opens the plane alone",
                {"Authorization": "plane"},
                "",
            ),
            "every route with a wrong token in the query": ("403", {}, "?token=0123456789abcdef"),
            "every route with a forged cookie": ("403", {"Cookie": "username-127-0-0-1=2|1:0|forged"}, ""),
            "every route by a rebound name, token known": ("403", {"Host": "evil.example", "Authorization": "own"}, ""),
            "every route from a page of another site, with the user's cookie": (
                "403 or 404",
                {"Origin": "http://evil.example", "Cookie": "own"},
                "",
            ),
            "every route from a sandboxed page, with the user's cookie": (
                "403 or 404",
                {"Origin": "null", "Cookie": "own"},
                "",
            ),
        }
    ),
)
def test_every_route(site: Site, cookies: requests.Session, headers: dict[str, str], path: str) -> None:
    own = "; ".join(f"{name}={value}" for name, value in cookies.cookies.items())
    words = {"plane": f"token {site.plane.token}", "own": own if "Cookie" in headers else f"token {site.jupyter.token}"}
    given = {name: words.get(value, value) for name, value in headers.items()}
    if "Cookie" in headers:
        given["X-XSRFToken"] = cookies.cookies["_xsrf"]
    for method, route in table():
        status = asked(site, method, route + path, given)
        assert status in ((403, 404) if "Origin" in headers else (403,)), (method, route, status)
    assert site.client.session("s")["state"] == "running"


@pytest.fixture(scope="module")
def cookies(site: Site) -> Iterator[requests.Session]:
    with signed_in(site.jupyter) as session:
        yield session


@pytest.mark.parametrize(
    "body",
    ROOM.cases(
        {
            "a form that pauses a session, with the cookie (CSRF)": ("403: no XSRF value", "a=b"),
            "the same as text/plain JSON": ("403: no XSRF value", "{}"),
        }
    ),
)
def test_forms(site: Site, cookies: requests.Session, body: str) -> None:
    kind = "text/plain" if body == "{}" else "application/x-www-form-urlencoded"
    for method, path in table():
        if method not in ("WS", "GET"):
            answer = cookies.request(
                method, f"{site.jupyter.base}{path}", data=body, headers={"Content-Type": kind}, timeout=20
            )
            assert (answer.status_code, "_xsrf" in answer.text) == (403, True), (method, path)


@ROOM.attack("a CORS preflight", "no Access-Control-Allow-Origin")
def test_preflight(site: Site) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for _, path in table():
        answer = requests.options(f"{site.jupyter.base}{path}", headers=asks, timeout=20)
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "name",
    ROOM.cases(
        {
            "a session's name that walks up": ("400 or 404", "%2e%2e%2f%2e%2e%2fv1%2fshutdown"),
            "a session's name that ends the plane's path": ("400 or 404", "s%2fpause%3fx="),
            "a session's name with a header's end": ("400 or 404", "s%0d%0aHost:%20evil"),
            "a session's name that is HTML": ("400 as JSON, not HTML", "%3Cimg%20src=x%20onerror=alert(1)%3E"),
        }
    ),
)
def test_names(site: Site, name: str) -> None:
    for method, action in (("POST", "pause"), ("GET", "receipts"), ("GET", "runs/r/outputs")):
        answer = site.jupyter.ask(f"sessions/{name}/{action}", method, json={} if method == "POST" else None)
        assert answer.status_code in (400, 404)
        assert answer.headers["Content-Type"].startswith("application/json") or answer.status_code == 404
        assert "nosniff" in answer.headers["X-Content-Type-Options"]
    assert site.client.session("s")["state"] == "running"
    assert site.client.health()["pid"] == site.plane_pid


@pytest.mark.parametrize(
    "query",
    ROOM.cases(
        {
            "a history's query that adds a parameter": ("400", {"session": "s&limit=9999"}),
            "a history's limit of a billion": ("422", {"limit": "1000000000"}),
            "a history's session that walks up": ("400", {"session": "../x"}),
        }
    ),
)
def test_queries(site: Site, query: dict[str, Any]) -> None:
    assert site.jupyter.ask("history", params=query).status_code in (400, 422)


@ROOM.attack("the plane's token, looked for in all that the extension answers", "it is nowhere")
def test_the_token_stays(site: Site) -> None:
    for path in ("snapshot", "history", "sessions/s/receipts"):
        answer = site.jupyter.ask(path)
        assert answer.status_code == 200
        assert site.plane.token not in answer.text + str(answer.headers)
    assert site.plane.token not in json.dumps(site.client.sessions())
