"""FLOPs as money and as a share of a known peak; unknown is no number, and what a machine tells is checked."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest

from ciuic_jupyter.control.counted import known_peaks
from ciuic_jupyter.core.flops import PFLOP, Peak, figures, line, number, peaks, shorter_in_bf16, told
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.notebook import report

KNOWN = {
    ("NVIDIA X", "bfloat16"): Peak(100, date(2026, 1, 1), "a datasheet"),
    ("NVIDIA X", "tf32"): Peak(50, date(2026, 1, 1), "it"),
}


def count(by: dict[str, int], seconds: float = 10.0, why: str | None = None, **gpus: str) -> dict[str, Any]:
    names = {f"cuda:{key[-1]}": name for key, name in (gpus or {"g0": "NVIDIA X"}).items()}
    return {"by": by, "gpus": names, "seconds": seconds, "whys": [why] if why else []}


def test_total_price_and_share_of_the_peak() -> None:
    found = figures(count({"cuda:0 bfloat16": 200 * 10**12, "cuda:0 tf32": 100 * 10**12}), 3_000_000, "USD", KNOWN)
    assert (found["flops"], found["nano_per_pflop"]) == (3 * 10**14, 10_000_000)
    assert found["utilisation"] == pytest.approx((2 + 2) / 10)
    text = line(found)
    assert (
        "300 TFLOP counted; $0.0100/PFLOP; utilisation 40.0 % of 100 TFLOPS in bfloat16 of NVIDIA X (a datasheet"
        in text
    )


def test_two_gpus_share_the_time_and_the_cpus_part_has_no_peak() -> None:
    by = {"cuda:0 bfloat16": 5 * 10**14, "cuda:1 bfloat16": 5 * 10**14, "cpu float32": 10**9}
    found = figures(count(by, g0="NVIDIA X", g1="NVIDIA X"), 0, "USD", KNOWN)
    assert found["utilisation"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("counted", "why"),
    [
        (count({"cpu float32": 10**12}), "nothing was counted on a GPU"),
        (count({}), "nothing was counted"),
        (count({"cuda:0 bfloat16": 10**12}, g0="NVIDIA X MIG 1g"), "no peak of NVIDIA X MIG 1g"),
        (count({"cuda:0 float64": 10**12}), "in float64"),
        (count({"cuda:0 float32 or tf32": 10**12}), "no peak of a GPU without a name in tf32"),
        (count({"cuda:1 bfloat16": 10**12}), "a GPU without a name"),
        (count({"cuda:0 bfloat16": 10**12, "cuda:0 int8": 1}), "in int8"),
        (count({"cuda:0 bfloat16": 10**12}, 0.0), "no time"),
        (count({"cuda:0 bfloat16": 10**12}, why="torch was imported late"), "not all of it was counted"),
        (count({"unknown unknown": 10**12}), "nothing was counted on a GPU"),
    ],
)
def test_what_is_not_known_is_said_and_never_guessed(counted: dict[str, Any], why: str) -> None:
    found = figures(counted, 5, "USD", KNOWN)
    assert found["utilisation"] is None and why in found["utilisation_why"]
    assert "utilisation unknown" in line(found)


def test_no_flops_have_no_price() -> None:
    none = figures(count({}), 10**9, "USD", KNOWN)
    assert (none["flops"], none["nano_per_pflop"]) == (0, None) and "$/PFLOP unknown" in line(none)
    assert line(None) == "unknown: the kernel told no count"
    assert "at least" in line(figures(count({"cpu float32": 5}, why="late"), 1, "USD", KNOWN))
    assert figures(count({"cpu float32": PFLOP}), 7, "USD", KNOWN)["nano_per_pflop"] == 7


@pytest.mark.parametrize(
    ("counted", "share"),
    [
        (count({"cuda:0 tf32": 10**14}), (2 - 1) / 10),
        (count({"cuda:0 tf32": 10**14, "cuda:0 bfloat16": 10**14, "cpu float32": 10**14}), (2 - 1) / 10),
        (count({"cuda:0 tf32": 10**14, "cuda:1 tf32": 10**14}, g0="NVIDIA X", g1="NVIDIA X"), (2 - 1) / 10),
        (count({"cuda:0 bfloat16": 10**14}), None),  # it is in bf16
        (count({"cpu float32": 10**14}), None),
        (count({}), None),
        (count({"cuda:0 tf32": 10**14}, g0="Tesla T4"), None),  # it has none, or is not known
        (count({"cuda:0 tf32": 10**14, "cuda:0 float64": 1}), None),
        (count({"cuda:0 tf32": 10**14}, 0.0), None),
        (count({"cuda:0 tf32": 10**14}, why="late"), None),
    ],
)
def test_what_bf16_would_take_less_is_known_only_by_peaks(counted: dict[str, Any], share: float | None) -> None:
    found = shorter_in_bf16(counted, KNOWN)
    assert (found[0] if found else None) == (pytest.approx(share) if share is not None else None)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "x",
        {},
        count({"a": -1}),
        count({"a": True}),
        count({"a": 1.5}),  # type: ignore[dict-item]
        count({"a": 10**31}),
        count({str(key): 1 for key in range(65)}),
        count({}, math.nan),
        count({}, -1.0),
        count({}, 10**400),
        {**count({}), "gpus": []},
        {**count({}), "whys": "x"},
        {**count({}), "whys": ["x"] * 65},
        {**count({}), "seconds": "1"},
    ],
)
def test_what_a_machine_can_not_mean_is_no_count(wrong: Any) -> None:
    assert told(wrong) is None


def test_what_a_machine_tells_is_bounded_and_plain() -> None:
    found = told({**count({"cuda:0 \x1b[2J": 1}, why="a\nb" * 99), "more": "x"})
    assert found is not None and found["by"] == {"cuda:0 \\x1b[2J": 1} and found.keys() == count({}).keys()
    assert "\n" not in found["whys"][0] and len(found["whys"][0]) < 200
    assert told(found) == found


@pytest.mark.parametrize(
    ("flops", "text"), [(0, "0 FLOP"), (999, "999 FLOP"), (1000, "1 kFLOP"), (123456 * 10**15, "123.5 EFLOP")]
)
def test_numbers_for_people(flops: int, text: str) -> None:
    assert number(flops) == text


def test_the_bundled_peaks_are_whole() -> None:
    found = known_peaks()
    assert found["NVIDIA H200", "bfloat16"].tflops == 989.4
    assert all(one.source and date(2020, 1, 1) < one.date <= date(2026, 12, 31) for one in found.values())
    for name in {gpu for gpu, _ in found}:
        kinds = {kind: peak.tflops for (gpu, kind), peak in found.items() if gpu == name}
        assert kinds["float32"] < kinds.get("tf32", kinds["float16"]) <= kinds["float16"]
        assert ("bfloat16" in kinds) == ("tf32" in kinds), "Ampere and later have both"


@pytest.mark.parametrize(
    "wrong",
    [
        "X,bfloat16,100,2026-01-01",
        "X,bfloat16,much,2026-01-01,s",
        "X,bfloat16,nan,2026-01-01,s",
        "X,bfloat16,-1,2026-01-01,s",
        "X,bfloat16,100,soon,s",
        "X,int8,100,2026-01-01,s",
        "X,bfloat16,100,2026-01-01,",
        "X,tf32,1,2026-01-01,s\nX,tf32,2,2026-01-01,s",
    ],
)
def test_a_line_that_is_no_peak_is_named(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"line [23]"):
        peaks(f"# source\n{wrong}\n")


def test_a_receipt_has_a_line_a_run_that_was_counted() -> None:
    figure = figures(count({"cpu float32": 10**12}), 10**6, "USD", KNOWN)
    text = report.receipt(
        "s", {"flops": [{"run": "abcdefghij", "figures": figure}, {"run": "b", "figures": None}]}
    ).text()
    assert "FLOPs, run abcdefgh  1 TFLOP counted; $1.0000/PFLOP; utilisation unknown" in text
    assert "unknown: the kernel told no count" in text
    assert "FLOPs" not in report.receipt("s", {}).text()
