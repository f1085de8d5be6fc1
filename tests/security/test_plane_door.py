"""The control plane's door: who has no token or no loopback name, or is a web page, gets nothing; none can block it."""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ciuic_jupyter.control.app import make_app
from ciuic_jupyter.control.daemon import proof
from ciuic_jupyter.control.metrics_routes import PAGES, metrics_token
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.kernels.protocol import encode
from ciuic_jupyter.settings import Settings
from tests.security.conftest import Site
from tests.security.raw import closed, read
from tests.security.table import Room

ROOM = Room("The control plane's HTTP and WebSocket")
BEARER = "Authorization"


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Return (method, path) of every route that a plane's application has, of session `s`; websockets as WS."""
    place = tmp_path_factory.mktemp("routes")
    plane = Plane(Settings(state_dir=place / "s", runtime_dir=place / "r", warm_start=False))
    todo: list[Any] = list(make_app(plane, "t", 1)._app.routes)  # type: ignore[attr-defined]
    plane.context.ledger.close()
    found = []
    while todo:
        route = todo.pop()
        nested = getattr(route, "original_router", None) or getattr(route, "app", None)
        path = getattr(route, "path", "").replace("{name}", "s")
        if getattr(route, "methods", None):
            found += [(method, path) for method in sorted(route.methods)]
        elif type(route).__name__ == "APIWebSocketRoute":
            found.append(("WS", path))
        elif hasattr(nested, "routes"):
            todo += list(nested.routes)
    assert len(found) >= 28
    return found


@pytest.fixture(scope="module", autouse=True)
def slow_line(site: Site) -> Iterator[socket.socket]:
    """A request that has begun when this module does."""
    with site.plane.connect() as line:
        line.sendall(b"GET /v1/health HTTP/1.1\r\n")
        yield line


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    ROOM.cases(
        {
            "every route without a token": ("401; a WebSocket is not opened (403)", {BEARER: None}, "", 401),
            "every route with a wrong token": ("401", {BEARER: f"Bearer {'0' * 48}"}, "", 401),
            "every route with the token cut by a character": ("401", {BEARER: "cut"}, "", 401),
            "every route with the token as Basic": ("401", {BEARER: "basic"}, "", 401),
            "every route with the token in the query only": (
                "401",
                {BEARER: None},
                "?",
                401,
            ),
            "every route with the token in a cookie only": ("401", {BEARER: None, "Cookie": "token"}, "", 401),
            "every route by a rebound name (`Host: evil.example`), token known": (
                "403",
                {"Host": "evil.example"},
                "",
                403,
            ),
            "every route by a name that begins like ours": ("403", {"Host": "127.0.0.1.evil.example"}, "", 403),
            "every route by our name and another port": ("403", {"Host": "127.0.0.1:1"}, "", 403),
            "every route without a Host": ("refused as no HTTP, or 403", {"Host": None}, "", 403),
            "every route from a page of another site, token known": (
                "403; no CORS header",
                {"Origin": "http://evil.example"},
                "",
                403,
            ),
            "every route from a sandboxed page (`Origin: null`)": ("403", {"Origin": "null"}, "", 403),
            "every route from a page of a sibling site, without Origin": (
                "403",
                {"Sec-Fetch-Site": "same-site"},
                "",
                403,
            ),
        }
    ),
)
def test_every_route(
    site: Site, routes: list[tuple[str, str]], headers: dict[str, str | None], query: str, status: int
) -> None:
    token = site.plane.token
    words = {"cut": f"Bearer {token[:-1]}", "basic": f"Basic {token}", "token": f"token={token}"}
    given = {name: words.get(value or "", value) for name, value in headers.items()}
    for method, path in routes:
        if path == "/v1/challenge" and status == 401:
            continue
        answer = site.plane.ask(method, path + (f"?token={token}" if query else ""), given)
        assert answer.status in (400, 403) if method == "WS" or "Host" in given else answer.status == status, (
            method,
            path,
            answer,
        )
        assert not [name for name in answer.headers if name.startswith("access-control")], answer
    assert site.sessions() == {"s"}


@ROOM.attack("two Host or two Authorization headers, the second one right", "403")
def test_doubled_headers(site: Site) -> None:
    good = f"Host: {site.plane.netloc}\r\nAuthorization: Bearer {site.plane.token}\r\n"
    for bad in ("Host: evil.example\r\n", "Authorization: Bearer x\r\n"):
        for lines in (bad + good, good + bad):
            assert site.plane.send(f"GET /v1/sessions HTTP/1.1\r\n{lines}\r\n".encode()).status == 403


@ROOM.attack("the one open route, `/v1/challenge`", "proves that the plane knows the token, and never says it")
def test_the_challenge(site: Site) -> None:
    answer = site.plane.ask("GET", f"/v1/challenge?nonce={'ab' * 16}", {BEARER: None})
    assert json.loads(answer.body) == {"proof": proof(site.plane.token, "ab" * 16)}
    for nonce in ("", "ab", "x" * 32, "AB" * 16, "ab" * 1000, "%3Cscript%3E"):
        assert site.plane.ask("GET", f"/v1/challenge?nonce={nonce}", {BEARER: None}).status == 400


@ROOM.attack("the scraper's token (`metrics.token`) at every other route", "401; it reads two pages and does nothing")
def test_the_scrapers_token(site: Site, routes: list[tuple[str, str]]) -> None:
    scraper = {BEARER: f"Bearer {metrics_token(site.settings)}"}
    assert {path for _, path in routes} >= set(PAGES)
    for method, path in routes:
        if path in PAGES:
            assert site.plane.ask(method, path, scraper).status == 200
        elif path != "/v1/challenge":
            assert site.plane.ask(method, path, scraper).status in (401, 403), path
    for path in ("/metrics/", "/metrics/x", "//metrics", "/metrics/../v1/sessions", "/v1/sessions?/metrics"):
        assert site.plane.ask("GET", path, scraper).status in (401, 404), path
    assert site.sessions() == {"s"}


@ROOM.attack("the plane's own token at `/metrics`, so that a scraper's file would hold it", "401")
def test_the_planes_token_is_no_scrapers(site: Site) -> None:
    for path in PAGES:
        assert site.plane.ask("GET", path).status == 401


@ROOM.attack("names and ids of sessions, cells, machines, paths and tokens on the scraper's pages", "none")
def test_pages_name_nobody(site: Site) -> None:
    site.run("measured", "kept = 1")
    view = site.client.session("s")
    secret = {site.plane.token, metrics_token(site.settings), str(view["id"]), str(view["machine"]), "measured"}
    secret.add(str(site.home))
    for path in PAGES:
        page = site.plane.ask("GET", path, {BEARER: f"Bearer {metrics_token(site.settings)}"}).body.decode()
        assert not [word for word in secret if word in page]
        assert not re.search(r'="s"|session=|user=|run=', page)


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("headers", "status"),
    ROOM.cases(
        {
            "a form of another site that starts a machine (CSRF)": (
                "403",
                {"Origin": "http://evil.example", "Content-Type": FORM, BEARER: None},
                403,
            ),
            "the same as text/plain, from a browser that sends no Origin": (
                "401",
                {"Content-Type": "text/plain", BEARER: None},
                401,
            ),
            "JSON in a form's clothes, token known": ("422: only JSON is read as JSON", {"Content-Type": FORM}, 422),
            "JSON as text/plain, token known": ("422", {"Content-Type": "text/plain"}, 422),
        }
    ),
)
def test_forms(site: Site, headers: dict[str, str | None], status: int) -> None:
    assert site.plane.ask("POST", "/v1/sessions", headers, {"name": "forged"}).status == status
    assert site.sessions() == {"s"}


@ROOM.attack("a CORS preflight for any method and header", "403, and no Access-Control header")
def test_preflight(site: Site) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/v1/sessions", "/v1/challenge", "/"):
        for token in (None, f"Bearer {site.plane.token}"):
            answer = site.plane.ask("OPTIONS", path, {**asks, BEARER: token})
            assert answer.status == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]


NAMES = {
    "the parent folder": ("400 or 404, and nothing is made", "%2e%2e"),
    "a way up and down (`../../etc/passwd`, escaped)": ("400 or 404", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "a way up, escaped twice": ("400", "%252e%252e%252fetc"),
    "an absolute path": ("400 or 404", "%2fetc%2fpasswd"),
    "a NUL": ("400", "s%00"),
    "a new line": ("400", "s%0a"),
    "backslashes": ("400", "..%5c..%5cetc"),
    "dots that look like others (U+FF0E)": ("400", "%EF%BC%8E%EF%BC%8E"),
    "text that runs backwards (U+202E)": ("400", "%E2%80%AEs"),
    "bytes that are no UTF-8": ("400", "%ff%fe"),
    "40,000 characters": ("400", "a" * 40_000),
    "a hidden file's name": ("400", ".import-x"),
    "another's case (`S`)": ("400", "S"),
    "SQL": ("400", "s';drop%20table%20entries--"),
    "HTML": ("400", "%3Cscript%3E"),
}


@pytest.mark.parametrize("name", ROOM.cases({f"a session named by {what}": row for what, row in NAMES.items()}))
def test_session_names(site: Site, name: str) -> None:
    before = sorted(path for path in site.settings.state_dir.rglob("*") if path.is_dir())
    for method, path, body in (
        ("GET", f"/v1/sessions/{name}", None),
        ("POST", f"/v1/sessions/{name}/pause", {}),
        ("POST", f"/v1/sessions/{name}/import", {"path": "/tmp", "trust": True}),
        ("POST", f"/v1/sessions/{name}/runs", {"run": "r", "code": "1"}),
    ):
        answer = site.plane.ask(method, path, body=body)
        assert answer.status in (400, 404, 405), answer
        assert len(answer.body) < 1000
    assert sorted(path for path in site.settings.state_dir.rglob("*") if path.is_dir()) == before


@pytest.mark.parametrize(
    "run",
    ROOM.cases(
        {
            "a run named `../x`": ("422", "../x"),
            "a run named with a last new line": ("422", "r\n"),
            "a run named with a NUL": ("422", "r\0"),
            "a run named in Greek letters": ("422", "ρ"),
            "a run with a name of 65 characters": ("422", "r" * 65),
        }
    ),
)
def test_run_names(site: Site, run: str) -> None:
    assert site.plane.ask("POST", "/v1/sessions/s/runs", body={"run": run, "code": "1"}).status == 422
    assert run not in {one["run"] for one in site.client.runs("s")}


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    ("body", "statuses"),
    ROOM.cases(
        {
            "JSON of 200,000 levels": ("400", DEEP, (400,)),
            "objects of 100,000 levels": ("400", b'{"name":' * 100_000, (400,)),
            "a body of 17 MiB": ("413; nothing was done", b'{"name":"' + b"x" * (17 << 20) + b'"}', (413,)),
            "a number of 5,000 digits": ("422 or 400", b'{"name":"b","budget_nano":' + b"9" * 5000 + b"}", (400, 422)),
            "NaN as seconds": ("422", b'{"name":"b","budget_nano":NaN}', (422,)),
            "fields that nobody knows (`__proto__`, `settings`)": (
                "422",
                b'{"name":"b","__proto__":{},"settings":{"price_per_hour":0}}',
                (422,),
            ),
            "gzip that unpacks to 1 GiB": ("400 or 422: nothing is unpacked", b"gzip", (400, 422)),
        }
    ),
)
def test_bodies(site: Site, body: bytes, statuses: tuple[int, ...]) -> None:
    headers = {}
    if body == b"gzip":
        body, headers = gzip.compress(b'{"name":"' + bytes(8 << 20)) * 128, {"Content-Encoding": "gzip"}
    assert site.plane.ask("POST", "/v1/sessions", headers, body).status in statuses
    assert site.sessions() == {"s"}


@ROOM.attack("a request inside another (Content-Length and chunked at once)", "400, and the line is closed")
def test_smuggling(site: Site) -> None:
    inner = f"GET /v1/shutdown HTTP/1.1\r\nHost: {site.plane.netloc}\r\n\r\n"
    lines = f"Host: {site.plane.netloc}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    answer = site.plane.send(f"POST /v1/sessions HTTP/1.1\r\n{lines}\r\n0\r\n\r\n{inner}".encode())
    assert answer.status in (400, 401)


@ROOM.attack("headers without an end, from one without a token", "the line is closed after 64 KiB")
def test_endless_head(site: Site) -> None:
    piece = b"X-Fill: " + b"x" * 8000 + b"\r\n"
    sent = 0
    with site.plane.connect() as line, pytest.raises(OSError):
        line.sendall(b"GET / HTTP/1.1\r\n")
        while sent < 64 << 20:
            line.sendall(piece)
            sent += len(piece)
    assert sent < 16 << 20  # what fits into the buffers of a socket beside the limit


@pytest.mark.parametrize(
    "frame",
    ROOM.cases(
        {
            "a stream's frame that is no frame": ("the line is closed", b"\xff" * 64),
            "a stream's frame with a header of 4 GiB": ("the line is closed", b"\xff\xff\xff\xff{}"),
            "a stream's request for another operation (`save`, `run`)": (
                "the line is closed",
                encode({"type": "request", "id": "1", "op": "save"}),
            ),
            "a stream's request whose fields are names of ours": (
                "the line is closed",
                encode({"type": "request", "id": "1", "op": "comm", "operation": "run", "self": 1}),
            ),
        }
    ),
)
def test_stream_frames(site: Site, frame: bytes) -> None:
    with site.plane.connect() as line:
        key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
        opening = f"Host: {site.plane.netloc}\r\nAuthorization: Bearer {site.plane.token}\r\nUpgrade: websocket\r\n"
        line.sendall(f"GET /v1/sessions/s/stream HTTP/1.1\r\n{opening}Connection: Upgrade\r\n{key}\r\n".encode())
        assert read(line).status == 101
        mask = bytes(4)
        line.sendall(struct.pack("!BBH", 0x82, 0x80 | 126, len(frame)) + mask + frame)
        assert closed(line)
    assert site.client.session("s")["state"] == "running"


@ROOM.attack("every address of this machine but loopback", "nobody listens there")
def test_only_loopback(site: Site) -> None:
    port = int(site.plane.netloc.rpartition(":")[2])
    with socket.socket(socket.AF_INET) as free:
        free.bind(("127.0.0.2", port))  # taken by whoever listens on all addresses


@ROOM.attack("a request whose head does not end", "the line is closed after 10 s")
def test_slow_head(slow_line: socket.socket) -> None:
    assert closed(slow_line)


@ROOM.attack("2,000 lines that never finish a request (slow loris)", "the plane answers; the oldest are closed")
def test_slow_loris(site: Site) -> None:
    with ExitStack() as lines:
        held = []
        for _ in range(2000):
            line = lines.enter_context(site.plane.connect())
            line.sendall(b"GET /v1/health HTTP/1.1\r\nHost: ")
            held.append(line)
        assert site.client.health()["pid"] == site.plane_pid
        assert closed(held[0])
        assert site.client.session("s")["state"] == "running"
