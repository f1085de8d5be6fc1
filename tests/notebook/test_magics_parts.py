"""The magics' parts that need no session: names, times, reports, completion, the checks before anything starts."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import NotPicklable, UnknownName, UsageError
from ciuic_jupyter.notebook import completion, report, training, why
from ciuic_jupyter.notebook.state import default_session, names_of, seconds_of


def test_default_name_is_the_notebooks_and_differs_between_folders() -> None:
    one = default_session({"JPY_SESSION_NAME": "/home/u/My Études (v2).ipynb"}, {})
    two = default_session({"JPY_SESSION_NAME": "/home/w/My Études (v2).ipynb"}, {})
    assert one.startswith("my-tudes-v2-")
    assert one != two
    assert default_session({}, {"__vsc_ipynb_file__": "/a/x.ipynb"}).startswith("x-")
    assert default_session({}, {}) == "default"


@pytest.mark.parametrize(
    "path", ["/a/.ipynb", "/a/Ж.ipynb", "/a/" + "n" * 300 + ".ipynb", "/a/-_-.ipynb", "/a/..b.ipynb"]
)
def test_default_name_is_always_a_valid_name(path: str) -> None:
    check_name(default_session({"JPY_SESSION_NAME": path}, {}))


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), (" 1H 5min ", 3900), ("30", 1800)]
)
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", "0h", "1.5h", "5 days", "1m2h"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write 30m, 2h or 1h30m"):
        seconds_of(text)


def test_names_are_split_once_each_and_checked() -> None:
    assert names_of(" a, b,a", "--in") == ["a", "b"]
    for wrong in ("a b", "1x", "a,,b", "f()", "a.b"):
        with pytest.raises(UsageError, match="--in a,b"):
            names_of(wrong, "--in")


def options(**changes: Any) -> SimpleNamespace:
    plain = {
        "instance": None,
        "budget": None,
        "run_budget": None,
        "push": None,
        "fetch": None,
        "detach": False,
        "no_meter": False,
        "checkpoint_every": None,
        "grace": None,
        "trace_modules": None,
        "flops": False,
    }
    return SimpleNamespace(**{**plain, **changes})


class Shell:
    """What planning needs of a shell."""

    def __init__(self, **user_ns: Any) -> None:
        self.user_ns = user_ns

    def transform_cell(self, cell: str) -> str:
        from IPython.core.inputtransformer2 import TransformerManager

        return TransformerManager().transform_cell(cell)


@pytest.mark.parametrize(
    ("changes", "cell", "error", "says"),
    [
        ({}, " \n", UsageError, "the cell is empty"),
        ({}, "for x in\n  pass", UsageError, "line 1 of the cell.*nothing was started"),
        ({"budget": "five"}, "1", UsageError, "five"),
        ({"budget": "0"}, "1", UsageError, "budget of 0"),
        ({"budget": "NaN"}, "1", UsageError, "NaN"),
        ({"push": "a,missing,gone"}, "1", UnknownName, "no variable named missing, gone.*nothing was started"),
        ({"push": "a-b"}, "1", UsageError, "not a variable name"),
        ({"fetch": "a b"}, "1", UsageError, "not a variable name"),
        ({"push": "lock"}, "1", NotPicklable, "lock"),
        ({"fetch": "a", "detach": True}, "1", UsageError, "%ciuic_pull"),
    ],
)
def test_a_wrong_cell_is_refused_before_anything_starts(
    changes: dict[str, Any], cell: str, error: type[Exception], says: str
) -> None:
    shell = Shell(a=1, lock=threading.Lock())
    with pytest.raises(error, match=f"(?s){says}"):
        training.plan(options(**changes), cell, session="s", shell=shell)


def test_a_bad_session_name_is_refused() -> None:
    with pytest.raises(UsageError):
        training.plan(options(), "1", session="../x", shell=Shell())


def test_a_plan_holds_everything_the_cell_needs() -> None:
    cell = "%matplotlib inline\n!ls\nawait f(a)"  # what IPython reads is no syntax error
    plan = training.plan(options(budget="2.50", push="a,a", fetch="c"), cell, session="s", shell=Shell(a=[1, 2]))
    assert (plan.budget_nano, plan.sent, plan.fetch, plan.code) == (2_500_000_000, ("a",), ("c",), cell)
    assert sum(len(part) for part in plan.payload) > 0
    assert plan.meter


def test_receipt_tells_what_was_billed_saved_and_lost() -> None:
    body = {
        "currency": "USD",
        "billed_seconds": 94,
        "spent_nano": 23_500_000,
        "unbilled_seconds": 3600,
        "unspent_nano": 900_000_000,
        "storage_nano_per_hour": 300_000,
        "checkpoint": {
            "bytes": 12_345_678,
            "names": ["model", "history"],
            "placeholders": [{"name": "conn", "path": "conn.socket", "reason": "an open <socket>"}],
        },
    }
    shown = report.receipt("digits", body)._repr_mimebundle_()
    for text in ("1 min 34 s", "$0.0235", "1 h 0 min", "$0.9000", "12.3 MB: model, history", "conn.socket"):
        assert text in shown["text/plain"]
        assert text.replace("$", "<span>$</span>") in shown["text/html"]
    assert "compute $0.00/h; storage $0.0003/h" in shown["text/plain"]
    assert "an open &lt;socket&gt;" in shown["text/html"]
    assert "free" not in shown["text/plain"].lower()


def test_html_holds_no_pair_of_dollars_for_mathjax_to_take() -> None:
    html = report.sessions([{"name": "a", "state": "running", "rate_nano_per_hour": 1}])._repr_mimebundle_()[
        "text/html"
    ]
    assert "$" in html
    assert html.count("$") == html.count("<span>$</span>")


def test_terminal_and_notebook_say_the_same() -> None:
    status = report.status({"name": "a", "state": "paused", "instance": "local.cpu", "unbilled_seconds": 61})
    assert repr(status) == status.text()
    assert "paused" in status.text()
    assert "1 min 1 s not billed" in status.text()


NAMES = ["alpha", "beta"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%%ciuic_train --session al", ["alpha"]),
        ("%%ciuic_train --session ", NAMES),
        ("%%ciuic_train --se", ["--session"]),
        ("%%ciuic_train --in mod", ["model"]),
        ("%%ciuic_train --in data,mo", ["model"]),
        ("%ciuic_pause ", [*NAMES, "--session"]),
        ("%ciuic_pause be", ["beta"]),
        ("ciuic_pause be", ["beta"]),
        ("%ciuic_push mo", ["model"]),
        ("%ciuic_keep 3", []),
    ],
)
def test_completion(line: str, found: list[str]) -> None:
    user_ns = {"model": 1, "data": 2, "_hidden": 3, "In": []}
    assert completion.complete(line, ["--session"], lambda: NAMES, user_ns) == found


def test_completion_never_waits_long_and_never_raises() -> None:
    hang = threading.Event()

    def slow() -> list[str]:
        hang.wait(20)
        return ["late"]

    names = completion.SessionNames(slow)
    started = time.monotonic()
    assert names.get() == []
    assert time.monotonic() - started < completion.LIMIT + 0.2
    hang.set()
    assert names.get() in (["late"], [])

    def broken() -> list[str]:
        raise OSError("no plane")

    assert completion.SessionNames(broken).get() == []


NOW = 1_800_000_000.0


def test_why_shows_witnesses_the_rule_with_its_numbers_and_the_time() -> None:
    policy = {
        "price_nano_per_hour": 900_000_000,
        "storage_nano_per_hour": 0,
        "wait_value_nano_per_hour": 30_000_000_000,
        "checkpoint_seconds": 3.0,
        "restore_seconds": 5.0,
        "break_even_seconds": 174.7,
        "floor_seconds": 60.0,
        "unit_seconds": 1,
        "minimum_seconds": 60,
        "max_resumes_per_100": 5,
        "resumes": 2,
        "runs": 40,
    }
    witnesses = {
        "kernel": {"quiet": True, "since": NOW - 30, "detail": ""},
        "processes": {"quiet": False, "since": NOW - 5, "detail": "python 3.2 s of CPU"},
        "gpu": {"unknown": "NVML failed"},
    }
    idle = {"verdict": "busy", "reason": "because", "release_at": None, "witnesses": witnesses, "policy": policy}
    view = {"name": "s", "state": "running", "currency": "USD", "idle": idle}
    text = why.why(view, NOW).text()
    for part in (
        "quiet for 30 s",
        "busy for 5 s (python 3.2 s of CPU)",
        "unknown: NVML failed; unknown is never idle",
        "not as things are",
        "175 s of quiet",
        "$0.9000/h",
        "2 in 40 cells; at most 5 in 100",
    ):
        assert part in text
    idle["release_at"] = NOW + 100
    assert "in 1 min 40 s" in why.why(view, NOW).text()
    assert "can be idle" in why.why({"name": "s", "state": "paused"}, NOW).text()
