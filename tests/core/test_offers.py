"""Prices, comparisons, `auto`, and the article's table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core import offers, price_table
from ciuic_jupyter.core.money import HOUR_MS
from ciuic_jupyter.core.offers import Cloud, Fact, PriceRow, Table, Usage, Wish, cheapest, compare, wish_of
from ciuic_jupyter.errors import OutOfCapacity, UsageError

TODAY = date(2026, 11, 25)
ROW = PriceRow("aws", "p", 1_200_000_000, "USD", TODAY, "x")
GOOD = """version = 1
[clouds.mine]
title = "Mine"
releases_in_pauses = true

[clouds.mine.billing]
unit_seconds = 3600
date = 2024-02-29
source = "contract"
[clouds.mine.egress]
price_per_gb = "0.01"
date = 2024-02-29
source = "contract"

[[offers]]
cloud = "mine"
machine = "a"
price_per_hour = "0.5"
date = 2024-02-29
source = "contract"

[[offers]]
cloud = "mine"
machine = "b"
gpus = 4
gpu = "A100"
price_per_hour = 8
currency = "CNY"
date = 2026-11-25
source = "contract"
"""


def test_a_table_is_read_with_all_that_it_says() -> None:
    table = price_table.parse(GOOD, "my.toml", TODAY)
    one, other = table.rows
    assert (one.rate, one.gpus, one.currency, one.origin) == (500_000_000, 1, "USD", "my.toml")
    assert (other.rate, other.rate_per_gpu, other.currency, other.gpu) == (8 * 10**9, 2 * 10**9, "CNY", "A100")
    cloud = table.cloud(one)
    assert (cloud.title, cloud.releases, cloud.unit_seconds, cloud.minimum_seconds) == ("Mine", True, 3600, None)
    assert cloud.egress == Fact(10_000_000, "USD", date(2024, 2, 29), "contract")
    assert cloud.storage is None


@pytest.mark.parametrize(
    ("before", "after", "line", "why"),
    [
        ('price_per_hour = "0.5"', 'price_per_hour = "-1"', 18, "amount of money"),
        ('price_per_hour = "0.5"', 'price_per_hour = "NaN"', 18, "amount of money"),
        ('price_per_hour = "0.5"', 'price_per_hour = "１２"', 18, "amount of money"),
        ('price_per_hour = "0.5"', "price_per_hour = 0.5", 18, "in quotes"),
        ('price_per_hour = "0.5"', "price_per_hour = nan", 18, "in quotes"),
        ('price_per_hour = "0.5"', "price_per_hour = true", 18, "amount of money"),
        ('price_per_hour = "0.5"', 'price_per_hour = "0"', 18, "above 0"),
        ('price_per_hour = "0.5"', 'price_per_hour = "100001"', 18, "at most"),
        ('currency = "CNY"', 'currency = "yuan"', 28, "not a currency; write a code of ISO 4217"),
        ('currency = "CNY"', 'currency = "RMB"', 28, "not a currency"),
        ('currency = "CNY"', 'currency = "cny"', 28, "did you mean CNY"),
        ('currency = "CNY"', "currency = 5", 28, "not a currency"),
        ("date = 2026-11-25", "date = 2026-11-26", 29, "in the future"),
        ("date = 2026-11-25", 'date = "2026-11-25"', 29, "without quotes"),
        ("date = 2026-11-25", "date = 2026-11-25T10:00:00", 29, "without quotes"),
        ("gpus = 4", "gpus = -4", 25, "whole number"),
        ("gpus = 4", "gpus = true", 25, "whole number"),
        ('machine = "b"', 'machine = ""', 24, "line of text"),
        ('machine = "b"\n', "", 22, "'machine' is missing"),
        ('gpu = "A100"', 'gpus_ = "A100"', 26, "'gpus_' is not known"),
        ("unit_seconds = 3600", "unit_seconds = 0", 7, "whole number"),
        ('price_per_gb = "0.01"', 'price_per_gb = "lots"', 11, "amount of money"),
        ("version = 1", "version = 2", 1, "newer"),
        ('title = "Mine"', "title = Mine", 3, "Invalid value"),
        ("gpus = 4", "gpus = 4\ngpus = 5", 26, "Cannot overwrite"),
        ("releases_in_pauses = true", 'releases_in_pauses = "yes"', 4, "true or false"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(before: str, after: str, line: int, why: str) -> None:
    assert GOOD.count(before) == 1
    with pytest.raises(UsageError, match=rf"my\.toml, line {line}: .*{why}"):
        price_table.parse(GOOD.replace(before, after), "my.toml", TODAY)


@given(st.text(alphabet="[].=\"'#\n offersclouds0129-truenaninf", max_size=200))
def test_any_text_is_a_table_or_refused_with_a_line(text: str) -> None:
    try:
        assert isinstance(price_table.parse(text, "t", TODAY), Table)
    except UsageError as error:
        assert "t, line " in str(error)


def test_a_later_row_takes_the_place_of_an_earlier_one() -> None:
    newer = replace(ROW, rate=1)
    elsewhere = replace(ROW, region="eu")
    table = offers.merged([Table((ROW,)), Table((newer, elsewhere))])
    assert table.rows == (newer, elsewhere)


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (TODAY, "today"),
        (TODAY - timedelta(1), "1 day"),
        (date(2026, 9, 30), "56 days"),
        (date(2026, 8, 26), "2 months"),
        (date(2023, 8, 1), "39 months"),
        (date(2025, 11, 26), "11 months"),
    ],
)
def test_ages(then: date, says: str) -> None:
    assert offers.age(then, TODAY) == says


def test_units_minimums_and_sizes_are_those_of_the_row() -> None:
    usage = Usage([(0, 10_000), (HOUR_MS, HOUR_MS + 90_500)], 2 * HOUR_MS, gpus=2, stored_bytes=3 * 10**9)
    fact = Fact(23_000_000, "USD", TODAY, "x")
    clouds = {"aws": Cloud("aws", "AWS", unit_seconds=1, minimum_seconds=60, storage=fact, egress=fact)}
    (found,) = compare(usage, Table((replace(ROW, rate=3_600_000_000, gpus=8),), clouds))
    assert found.stopping == (60 + 91) * 250_000  # a quarter of eight GPUs: $0.90 an hour
    assert found.always_on == found.usual == 2 * 900_000_000
    assert found.egress == 69_000_000
    assert found.storage == -(-69_000_000 * (2 * HOUR_MS - 100_500) // (730 * HOUR_MS))
    (bare,) = compare(usage, Table((replace(ROW, cloud="other"),)))
    assert (bare.storage, bare.egress) == (None, None)
    (yuan,) = compare(usage, Table((replace(ROW, currency="CNY"),), clouds))
    assert (yuan.storage, yuan.egress) == (None, None)


def test_nothing_used_costs_nothing() -> None:
    (found,) = compare(Usage([], 5), Table((ROW,), {"aws": Cloud("aws", "AWS", minimum_seconds=60)}))
    assert (found.stopping, found.always_on) == (0, 0)


@dataclass(frozen=True)
class Machine:
    instance: str
    price_nano_per_hour: int
    currency: str = "USD"
    gpus: int = 0
    gpu: str = ""
    listed: bool = True


MACHINES = [
    Machine("cpu", 2),
    Machine("small", 5, gpus=1, gpu="NVIDIA T4"),
    Machine("same", 5, gpus=1, gpu="NVIDIA T4"),
    Machine("big", 9, gpus=4, gpu="NVIDIA A100-SXM4"),
    Machine("yuan", 1, "CNY", gpus=8),
    Machine("played", 1, gpus=8, listed=False),
]


@pytest.mark.parametrize(
    ("wish", "name"),
    [("auto", "cpu"), ("auto:gpus=1", "small"), ("auto:gpu=a100", "big"), ("auto: gpus=2 , max=0.000000009", "big")],
)
def test_auto_takes_the_cheapest_that_fits(wish: str, name: str) -> None:
    read = wish_of(wish)
    assert read is not None
    assert cheapest(MACHINES, read, "USD").instance == name


def test_auto_says_what_there_is_where_nothing_fits() -> None:
    with pytest.raises(OutOfCapacity, match=r"no machine in USD fits; there are: cpu .*4 GPUs NVIDIA A100"):
        cheapest(MACHINES, Wish(gpus=5), "USD")
    with pytest.raises(OutOfCapacity, match="no machine in EUR fits"):
        cheapest(MACHINES, Wish(), "EUR")
    with pytest.raises(OutOfCapacity, match="there are: none"):
        cheapest([], Wish(), "EUR")


@pytest.mark.parametrize("bad", ["auto:", "auto:gpus", "auto:gpus=", "auto:gpus=x", "auto:cpu=1", "auto:max=-1"])
def test_a_wish_that_can_not_be_read_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        wish_of(bad)


@pytest.mark.parametrize("name", ["gpu.2xlarge", "automatic", "local.cpu"])
def test_names_of_machines_are_no_wishes(name: str) -> None:
    assert wish_of(name) is None


def test_the_articles_hours_are_the_ones_that_all_its_totals_allow() -> None:
    rates = {"ciuic": 900_000_000, "aws": 1_200_000_000, "gcp": 1_150_000_000, "azure": 1_100_000_000}
    kept = [offers.hours_of(offers.ARTICLE_TOTALS[cloud], rates[cloud]) for cloud in ("aws", "gcp", "azure")]
    both = kept[0]
    for one in kept[1:]:
        common = both.both(one)
        assert common is not None
        both = common
    assert both.least < offers.ARTICLE_SPAN < both.most
    less = offers.hours_of(offers.ARTICLE_TOTALS["ciuic"], rates["ciuic"])
    assert less.least < offers.ARTICLE_COMPUTING < less.most
    assert less.both(both) is None, "one number of hours would do"
