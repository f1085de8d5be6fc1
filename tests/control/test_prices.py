"""Where prices come from: the package, a user's file, a catalogue over real HTTP; and comparisons of a real bill."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ciuic_jupyter.control import prices
from ciuic_jupyter.control.cli import app
from ciuic_jupyter.core import offers
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import OutOfCapacity, ProviderError, UsageError
from ciuic_jupyter.providers.base import Offer
from tests.control.conftest import Cloud, reach

TODAY = date(2026, 11, 25)
ITEMS = """instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor
dear,us,4.0,8,64,1,A100,40,False,,nvidia
cheap,eu,3.25,8,64,1,A100,40,False,,nvidia
spot,us,0.5,8,64,1,A100,40,True,,nvidia
free,us,0,8,64,1,T4,16,False,,nvidia
odd,us,nan,8,64,1,L4,24,False,,nvidia
"""


def test_every_bundled_row_has_a_price_a_date_and_a_source() -> None:
    table = prices.bundled(TODAY)
    seed = {row.cloud: row.rate for row in table.rows if row.date == date(2023, 8, 1)}
    assert seed == {"ciuic": 900_000_000, "aws": 1_200_000_000, "gcp": 1_150_000_000, "azure": 1_100_000_000}
    assert "gpu.2xlarge" in {row.machine for row in table.rows}
    assert all(row.rate > 0 and row.source and row.date <= TODAY for row in table.rows)
    for cloud in table.clouds.values():
        assert cloud.unit_seconds is None or (cloud.billing_source and cloud.billing_date)


def test_the_articles_table_comes_out() -> None:
    found = {one.row.cloud: round(one.usual / 10**9) for one in offers.article(prices.bundled(TODAY))}
    assert {cloud: 5 * round(total / 5) for cloud, total in found.items()} == offers.ARTICLE_TOTALS


def test_a_users_rows_lie_over_the_bundled_ones(tmp_path: Path) -> None:
    own = tmp_path / "my.toml"
    row = '[[offers]]\ncloud = "{}"\nmachine = "{}"\nprice_per_hour = "{}"\ndate = 2026-01-01\nsource = "contract"\n'
    own.write_text(row.format("aws", "one GPU", "1.05") + row.format("lab", "node7", "0.20"))
    rates = {(one.cloud, one.machine): one.rate for one in prices.table(own, TODAY).rows}
    assert (rates["aws", "one GPU"], rates["lab", "node7"]) == (1_050_000_000, 200_000_000)
    assert len(rates) == len(prices.bundled(TODAY).rows) + 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[offers]]\n", b"x" * (5 << 20)])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    own = tmp_path / "my.toml"
    own.write_bytes(content)
    with pytest.raises(UsageError, match=r"my\.toml"):
        prices.table(own, TODAY)
    with pytest.raises(UsageError, match=r"missing.toml can't be read"):
        prices.table(tmp_path / "missing.toml", TODAY)


class Catalogue(BaseHTTPRequestHandler):
    """gpuhunt's bucket, as far as it asks."""

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        if self.path.endswith("/version"):
            body = b"20261125\n"
        else:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(f"{name}.csv", ITEMS if name == "aws" else ITEMS.splitlines()[0] + "\n")
            body = file.getvalue()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Catalogue)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", url)
    yield url
    server.shutdown()
    server.server_close()


def test_the_live_catalogue_gives_the_cheapest_of_each_kind(catalogue: str) -> None:
    (row,) = prices.live(TODAY).rows
    assert (row.cloud, row.machine, row.rate, row.gpu) == ("aws", "cheap", 3_250_000_000, "A100")
    assert (row.currency, row.date, row.region, row.origin) == ("USD", TODAY, "eu", "gpuhunt")
    shown = CliRunner().invoke(app, ["prices", "--live", "--gpu", "a100"])
    assert shown.exit_code == 0
    assert "cheap" in shown.output and "gpu.2xlarge" not in shown.output


def test_a_catalogue_that_does_not_answer_is_told_and_the_bundled_table_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", "http://127.0.0.1:1")
    with pytest.raises(ProviderError, match=r"catalogue can.t be had: .*refused"):
        prices.live(TODAY)
    shown = CliRunner().invoke(app, ["prices", "--live"])
    assert shown.exit_code == 0
    assert "the bundled prices are used" in shown.stderr and "Traceback" not in shown.stderr
    assert "gpu.2xlarge" in shown.stdout


def test_the_shell_prints_prices_and_the_articles_table() -> None:
    listed = CliRunner().invoke(app, ["prices"]).output
    assert "months" in listed and "USD" in listed and "unknown" in listed and "2023-08-01" in listed
    article = CliRunner().invoke(app, ["compare", "--article"]).output
    for total in ("$219.60", "$349.20", "$334.65", "$320.10", "244 GPU-hours of computing within 291 h"):
        assert total in article
    assert CliRunner().invoke(app, ["compare"]).exit_code == 1
    assert CliRunner().invoke(app, ["compare", "s", "--article"]).exit_code == 1


async def test_a_paused_session_is_compared_with_what_it_would_have_been(cloud: Cloud) -> None:
    runner = await cloud.session()
    await cloud.turn(1800)
    await runner.pause()
    await reach(runner, State.PAUSED)
    await cloud.turn(5 * 3600)
    now_ms = cloud.plane.context.now_ms()
    view = prices.usage_view(runner.book, None, now_ms)
    usage = prices.usage_of(view)
    assert usage.span_ms - usage.on_ms == 5 * 3_600_000
    (here,) = offers.compare(usage, prices.own_table(view))
    assert here.stopping == runner.book.compute_nano(now_ms) == view["spent_nano"]
    assert here.always_on - here.stopping == runner.book.unspent_nano(now_ms)
    rows = offers.compare(usage, prices.bundled(TODAY))
    assert [one.row.cloud for one in rows] == ["ciuic", "azure", "gcp", "aws"]
    assert rows[0].stopping == 450_000_000


async def test_a_receipt_has_energy_and_grams_or_says_why_not(cloud: Cloud) -> None:
    runner = await cloud.session()
    quiet = {
        "gpus": [],
        "gpu_why": "no NVIDIA driver",
        "gpu_witness": {"quiet": True, "since": 0.0, "detail": "no GPU"},
    }
    for seconds in (0.0, 5.0, 10.0):
        runner.energy.take({**quiet, "cpu_percent": 100.0}, 1000 + seconds)
    await runner.pause()
    await reach(runner, State.PAUSED)
    receipt = runner.book.receipts[-1]
    assert receipt["energy"]["joules"] >= 40
    assert "no grid region is set" in receipt["carbon"]["why"]
    assert runner.energy.view()["joules"] is None, "the next machine begins with nothing"


async def test_auto_picks_over_all_providers_and_an_existing_session_that_fits_is_kept(cloud: Cloud) -> None:
    class Dear:
        name = "dear"

        async def offers(self) -> list[Offer]:
            return [Offer("dear.gpu", "dear", 10**12, gpus=1, gpu="A100")]

    (there,) = await cloud.provider.offers()
    context = cloud.plane.context
    context.providers = {"dear": Dear(), **context.providers}  # type: ignore[dict-item]
    assert (await context.find_offer("auto")).instance == there.instance
    assert (await context.find_offer("auto:gpus=1")).instance == "dear.gpu"
    with pytest.raises(OutOfCapacity, match=r"fake\.1 .*dear\.gpu|dear\.gpu .*fake\.1"):
        await context.find_offer("auto:gpus=2")
    runner = await cloud.plane.create("s", instance="auto", budget_nano=None, cwd=None)
    await reach(runner, State.RUNNING)
    assert runner.book.offer["instance"] == there.instance
    assert await cloud.plane.create("s", instance="auto", budget_nano=None, cwd=None) is runner
    with pytest.raises(UsageError, match=r"is on fake\.1, not dear\.gpu"):
        await cloud.plane.create("s", instance="auto:gpus=1", budget_nano=None, cwd=None)
