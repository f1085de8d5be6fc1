"""Every route refuses who may not use it, by REST and WebSocket; bad input is answered in JSON and changes nothing."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from jupyter_server.serverapp import ServerWebApplication

from ciuic_jupyter.server.routes import handlers
from tests.server.conftest import PREFIX, Jupyter

FILLED = {r"([^/]+)": "s", r"([A-Za-z0-9_-]{1,64})": "r"}


def table() -> list[tuple[str, str]]:
    """Return (method, path below `ciuic/`) of every route there is, websockets as WS."""
    found = []
    for pattern, handler in handlers(PREFIX):
        path = pattern.removeprefix(f"{PREFIX}ciuic/")
        for group, value in FILLED.items():
            path = path.replace(group, value)
        choice = re.search(r"\(([a-z|]+)\)", path)
        for word in choice[1].split("|") if choice is not None else [""]:
            filled = re.sub(r"\([a-z|]+\)", word, path)
            if handler.__name__ == "WatchHandler":
                found.append(("WS", filled))
                continue
            own = [name for name in ("get", "post", "put", "patch", "delete", "head") if name in vars(handler)]
            found += [(name.upper(), filled) for name in own]
    return found


def signed_in(jupyter: Jupyter) -> requests.Session:
    """Return a browser's session: a cookie and an XSRF value."""
    session = requests.Session()
    session.get(f"{jupyter.base.removesuffix('ciuic/')}login", params={"token": jupyter.token}, timeout=20)
    assert "_xsrf" in session.cookies, "not signed in"
    return session


def opened(jupyter: Jupyter, path: str, headers: dict[str, str]) -> int:
    """Return the status a WebSocket's opening is answered with: 101 is a line."""
    place = urlsplit(f"{jupyter.base}{path}")
    given = {"Host": place.netloc, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    given |= {"Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode()} | headers
    lines = [f"GET {place.path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    with socket.create_connection((place.hostname, place.port), timeout=10) as line:
        line.sendall("\r\n".join(lines).encode())
        return int(line.makefile("rb").readline().split()[1])


def asked(jupyter: Jupyter, method: str, path: str, headers: dict[str, str], **options: Any) -> int:
    answer = requests.request(method, f"{jupyter.base}{path}", headers=headers, timeout=20, json={}, **options)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
    return answer.status_code


def test_the_table_is_whole() -> None:
    assert {path for _, path in table()} >= {"watch", "snapshot", "plane/start", "history", "sessions/s/pause"}
    assert len(table()) == 13


STRANGERS: dict[str, dict[str, str]] = {
    "anonymous": {},
    "a wrong token": {"Authorization": f"token {'x' * 32}"},
    "a token of another kind": {"Authorization": "Bearer null"},
    "a wrong cookie": {"Cookie": "username-127-0-0-1=forged"},
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_every_route_refuses_strangers(jupyter: Jupyter, stranger: str) -> None:
    for method, path in table():
        given = STRANGERS[stranger]
        status = opened(jupyter, path, given) if method == "WS" else asked(jupyter, method, path, given)
        assert status == 403, (method, path, status)


def test_every_route_refuses_a_foreign_host_even_with_the_token(jupyter: Jupyter) -> None:
    given = {"Authorization": f"token {jupyter.token}", "Host": "evil.example"}
    for method, path in table():
        status = opened(jupyter, path, given) if method == "WS" else asked(jupyter, method, path, given)
        assert status == 403, (method, path, status)


@pytest.fixture
def browser(jupyter: Jupyter) -> Iterator[requests.Session]:
    with signed_in(jupyter) as session:
        yield session


def test_every_route_refuses_a_page_of_another_site(jupyter: Jupyter, browser: requests.Session) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
        given = {"Cookie": cookies, "X-XSRFToken": browser.cookies["_xsrf"], "Origin": origin}
        for method, path in table():
            status = opened(jupyter, path, given) if method == "WS" else asked(jupyter, method, path, given)
            assert status in (403, 404), (method, path, status)


def test_a_cookie_without_the_xsrf_value_changes_nothing(jupyter: Jupyter, browser: requests.Session) -> None:
    for method, path in table():
        if method in ("WS", "GET"):
            continue
        answer = browser.request(method, f"{jupyter.base}{path}", json={}, timeout=20)
        assert answer.status_code == 403, (method, path)
        assert "_xsrf" in answer.json()["message"]


def test_a_page_of_this_server_gets_through(jupyter: Jupyter, browser: requests.Session) -> None:
    given = {"X-XSRFToken": browser.cookies["_xsrf"], "Origin": jupyter.base[: jupyter.base.index("/", 8)]}
    assert browser.get(f"{jupyter.base}snapshot", headers=given, timeout=20).status_code == 200
    answer = browser.post(f"{jupyter.base}sessions/nobody/pause", json={}, headers=given, timeout=20)
    assert answer.status_code in (404, 503)  # the plane's own word
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    assert opened(jupyter, "watch", {**given, "Cookie": cookies}) == 101


def test_no_route_is_open_to_who_is_not_authorized(tmp_path: Any) -> None:
    """The resource is named: an Authorizer can give someone the meter and not the button."""
    asked_for = {(handler.auth_resource, name) for name, handler in handlers("/")}  # type: ignore[attr-defined]
    assert {resource for resource, _ in asked_for} == {"ciuic"}
    for pattern, handler in handlers("/"):
        assert ServerWebApplication._check_handler_auth(None, pattern, handler) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["<b>x</b>", "<script>alert(1)</script>", "x" * 10_000, "größe", "\u202eevil", "a/../b", "a b", "%00"]
)
def test_names_that_can_name_nothing(jupyter: Jupyter, name: str) -> None:
    for method, action in (("POST", "pause"), ("GET", "receipts"), ("GET", "runs/r/outputs")):
        answer = jupyter.ask(f"sessions/{quote(name, safe='')}/{action}", method)
        said = answer.json()["error"]
        assert (answer.status_code, said["type"]) == (400, "UsageError") or answer.status_code == 503
        assert answer.headers["Content-Type"].startswith("application/json")
        assert len(said["message"]) < 400


@pytest.mark.parametrize("body", ["{no", "[]", "7", '"x"', "\udc80", "[" * 30_000, '{"a":' * 5_000])
def test_bodies_that_are_no_json_object(jupyter: Jupyter, body: str) -> None:
    answer = jupyter.ask("sessions/s/pause", "POST", data=body.encode(errors="surrogatepass"))
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"] or "not a JSON object" in answer.json()["error"]["message"]


def test_a_body_without_end_is_refused(jupyter: Jupyter) -> None:
    answer = jupyter.ask("sessions/s/pause", "POST", data=json.dumps({"x": "y" * 100_000}))
    assert answer.status_code == 413
