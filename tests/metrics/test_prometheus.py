"""Debian's real Prometheus scrapes a real plane: what it knows is what the ledger says, to the nano-dollar."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.devices import DeviceCollector, Devices
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.monitor.nvml import Nvml
from ciuic_jupyter.settings import Settings
from tests.control.test_daemon import gone
from tests.control.test_pause_real import leave
from tests.metrics.pages import text
from tests.metrics.scraper import EXAMPLES, Prometheus, config, lint, prometheus
from tests.monitor.test_nvml import Library
from tests.ui.servers import until

pytestmark = pytest.mark.prometheus

PLACE = {"namespace": "lab", "pod": "plane-0"}  # as kubernetes_sd_configs and relabelling give them
NAMES = ("tell-nobody-a", "tell-nobody-b")
SAMPLE = "m = bytes(1 << 20)"


@dataclass
class Site:
    """A plane, and a Prometheus that began before the first session did."""

    state: Path
    server: Prometheus

    @property
    def client(self) -> PlaneClient:
        return PlaneClient.ensure(Settings())

    @cached_property
    def token(self) -> str:
        return (self.state / "metrics.token").read_text()

    def page(self, path: str) -> bytes:
        """Return a page as a scraper gets it."""
        (target,) = json.loads((self.state / "metrics-targets.json").read_text())
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.get(f"http://{target['targets'][0]}{path}", headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.content

    def books(self) -> Books:
        """Fold a copy of the ledger, taken while the plane writes it."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "ledger.db"
            source = sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True)
            target = sqlite3.connect(copy)
            source.backup(target)
            source.close()
            target.close()
            copy.chmod(0o600)
            ledger = Ledger(copy, Clock())
            try:
                return Books(ledger.replay())
            finally:
                ledger.close()

    def scrape(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return the newest scrape of the ledger's page, all of it: series by name."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for labels, value in self.server.query('{job="ciuic"}'):
            found.setdefault(labels.pop("__name__"), []).append((labels, value))
        return found


def work(client: PlaneClient, name: str, run: str) -> None:
    """Run a cell to its end."""
    client.run(name, run, SAMPLE)
    until(lambda: next(one for one in client.runs(name) if one["run"] == run)["ended"], f"run {run}")


@contextmanager
def gpus(folder: Path) -> Iterator[str]:
    """Serve the page of two devices that NVML's double reads, where no GPU is at hand; yields its address."""
    devices, clock = Devices(), Clock()
    nvml = Nvml(lambda: Library(2), folder)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            read = nvml.read()
            assert not isinstance(read, str)
            devices.take("m", "t", {"hostname": "node1", "gpus": [asdict(gpu) for gpu in read]}, clock.boot())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text(DeviceCollector(devices, clock)).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home, runtime = tmp_path_factory.mktemp("plane"), tempfile.mkdtemp(prefix="ciuic-p-")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "STATE_DIR": str(home / "state"),
            "RUNTIME_DIR": runtime,
            "WARM_START": "false",
            "IDLE_RELEASE": "false",
            "PRICE_PER_HOUR": "90",
            "STORAGE_PRICE_PER_HOUR": "3.6",
            "BUDGET_PER_DAY": "500",
        }.items():
            patch.setenv(f"CIUIC_{name}", value)
        client = PlaneClient.ensure(Settings())
        with gpus(home) as address, prometheus(home / "prometheus", config(home / "state", PLACE, address)) as server:
            made = Site(home / "state", server)
            server.until("ciuic_sessions")
            server.until('up{job="ciuic-devices"}')
            try:
                for name in NAMES:
                    client.create(name, budget_nano=400 * NANO)
                for number, name in enumerate(NAMES):
                    until(lambda name=name: client.session(name)["state"] == "running", name)
                    work(client, name, f"r{number}")
                client.pause(NAMES[0])
                client.resume(NAMES[0], wait=True)
                client.pause(NAMES[0])  # one is paused and kept, one is idle on a machine, both cost
                yield made
            finally:
                last = made.client
                for view in last.sessions():
                    if view["state"] not in ("closed", "paused"):
                        last.release(view["name"], discard=True)
                leave(last, int(last.health()["pid"]))
    shutil.rmtree(runtime, ignore_errors=True)


def test_promtool_has_nothing_to_say(site: Site) -> None:
    assert lint(site.page("/metrics")) == ""
    until(lambda: b"ciuic_kernel_cpu_seconds_total{" in site.page("/metrics/devices"), "a sample")
    assert lint(site.page("/metrics/devices")) == ""
    assert "no help text" in lint(b"# TYPE x_minutes gauge\nx_minutes 1\n")  # it does look


def test_what_prometheus_knows_is_what_the_ledger_says_of_that_moment(site: Site) -> None:
    at = until(lambda: site.server.value("ciuic_as_of_timestamp_seconds"), "a scrape")
    site.server.until(f"ciuic_as_of_timestamp_seconds > {at + 2}")  # of all that was done above
    found, books = site.scrape(), site.books()
    ((_, moment),) = found["ciuic_as_of_timestamp_seconds"]
    at_ms = round(moment * 1000)
    shown = Counter({"storage": 0})
    for labels, dollars in found["ciuic_cost_total"]:
        assert labels["currency"] == "USD"
        shown[labels["kind"]] += round(dollars * NANO)
    assert sum(shown.values()) == sum(book.spent_nano(at_ms) for book in books.lives)
    assert shown["storage"] == sum(book.storage_nano(at_ms) for book in books.lives) > 0
    assert shown["starting"] > 0 and shown["idle"] > 0  # the others may be shorter than a billing unit
    seconds = sum(round(value * 1000) for _, value in found["ciuic_billed_seconds_total"])
    assert seconds == sum(book.billed_ms(at_ms) for book in books.lives) > 0
    ((_, unbilled),) = found["ciuic_unbilled_seconds_total"]
    assert round(unbilled * 1000) == sum(book.unbilled_ms(at_ms) for book in books.lives) > 0
    assert {labels["state"]: value for labels, value in found["ciuic_sessions"] if value} == {"paused": 1, "running": 1}
    saves = [one for book in books.lives for one in book.save_seconds]
    assert found["ciuic_save_seconds_count"][0][1] == len(saves) == 2
    assert found["ciuic_save_seconds_sum"][0][1] == pytest.approx(sum(saves), rel=1e-12)
    assert found["ciuic_restore_seconds_count"][0][1] == 1
    budgets = {labels["scope"]: value for labels, value in found["ciuic_budget_limit"]}
    assert budgets == {"day": 500, "session": 800}


def test_no_session_run_machine_or_path_is_named_to_prometheus(site: Site) -> None:
    client = site.client
    ids = {*NAMES, *(view["id"] for view in client.sessions()), *(run["run"] for run in client.runs(NAMES[1]))}
    ids |= {str(client.session(NAMES[1])["machine"]), str(site.state)}
    everything = json.dumps(site.server.ask("series", **{"match[]": '{job=~"ciuic.*"}'}))
    assert not [one for one in ids if f'"{one}"' in everything]
    labels = {name for each in json.loads(everything) for name in each}
    assert not labels & {"session", "run", "user", "machine"}


def expressions() -> dict[str, str]:
    """Return every query of the dashboard by its panel, with Grafana's variables put in."""
    board = json.loads((EXAMPLES / "grafana" / "ciuic.json").read_text())
    assert board["uid"] and board["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    found = {}
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h")
            assert "$" not in text, text
            found[f"{panel['title']} {target['refId']}"] = text
    return found


@pytest.mark.parametrize("name", expressions())
def test_each_query_of_the_dashboard_has_an_answer(site: Site, name: str) -> None:
    expression = expressions()[name]
    found = until(lambda: site.server.query(expression), name)
    assert not [value for _, value in found if value != value], f"NaN: {found}"


def rules() -> list[dict[str, Any]]:
    made = yaml.safe_load((EXAMPLES / "kubernetes" / "prometheus-adapter.yaml").read_text())
    return [*made["rules"], *made["externalRules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["name"]["as"])
def test_each_rule_of_the_adapter_finds_its_series_and_its_query_holds(site: Site, rule: dict[str, Any]) -> None:
    series = site.server.ask("series", **{"match[]": rule["seriesQuery"]})
    resources = list(rule["resources"]["overrides"])
    query = rule["metricsQuery"]
    for name, value in {
        "Series": rule["seriesQuery"].partition("{")[0],
        "LabelMatchers": ",".join(f'{label}="{PLACE[label]}"' for label in resources),
        "GroupBy": resources[-1],
    }.items():
        query = query.replace(f"<<.{name}>>", value)
    assert "<<" not in query
    found = site.server.query(query)
    assert series and all(set(resources) <= set(one) for one in series)
    ((labels, _),) = found
    assert labels == {resources[-1]: PLACE[resources[-1]]}


def test_no_counter_falls_when_the_plane_is_killed_and_starts_anew(site: Site) -> None:
    before = {json.dumps(labels): value for labels, value in site.server.query("ciuic_cost_total")}
    pid = int(site.client.health()["pid"])
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    moment = site.server.until("ciuic_as_of_timestamp_seconds")
    assert int(site.client.health()["pid"]) != pid
    site.server.until(f"ciuic_as_of_timestamp_seconds > {moment + 3}")
    after = {json.dumps(labels): value for labels, value in site.server.query("ciuic_cost_total")}
    assert set(after) == set(before)  # the same series, though the port is another
    assert all(after[key] >= value for key, value in before.items())
    for name in (
        "ciuic_cost_total",
        "ciuic_billed_seconds_total",
        "ciuic_save_seconds_count",
        "ciuic_runs_ended_total",
    ):
        assert {value for _, value in site.server.query(f"resets({name}[1h])")} == {0}


def test_at_rest_prometheus_the_report_and_the_ledger_say_the_same(site: Site) -> None:
    client = site.client
    for name in NAMES:
        client.close_session(name)
    until(lambda: {view["state"] for view in client.sessions()} == {"closed"}, "the end")
    moment = client.cost()["as_of"]
    site.server.until(f"ciuic_as_of_timestamp_seconds > {moment + 2}")
    total = client.cost()
    nano = sum(book.spent_nano(round(moment * 1000)) for book in site.books().lives)
    assert round((site.server.value("sum(ciuic_cost_total)") or 0) * NANO) == total["spent_nano"] == nano
    assert site.server.value("sum(ciuic_billed_seconds_total)") == total["billed_seconds"]
    assert site.server.value("sum(ciuic_cost_per_hour)") == 0
