"""Samples and the two witnesses they give: quiet must be proved by a whole window, and a failed look is unknown."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.idle import Reading, Unknown, Witness
from ciuic_jupyter.monitor.nvml import Nvml
from ciuic_jupyter.monitor.sample import QuietWindow, Sample, Sampler
from tests.monitor.puppet import Puppet
from tests.monitor.test_nvml import Library
from tests.monitor.test_tree import no_descriptors_left

steps = st.lists(
    st.tuples(st.integers(1, 32).map(lambda quarters: quarters / 4), st.none() | st.floats(0, 10)),
    min_size=1,
    max_size=60,
)


@given(steps)
def test_quiet_is_claimed_only_for_a_window_that_was_watched_and_quiet_throughout(
    taken: list[tuple[float, float | None]],
) -> None:
    window, now, seen = QuietWindow(3.0, 5.0, "CPU"), 0.0, list[tuple[float, float | None]]()
    for wait, level in taken:
        now += wait
        seen.append((now, level))
        said = window.take(level, now)
        if level is None:
            assert isinstance(said, Unknown)
        elif level > 3.0:
            assert said == Reading(False, now, f"CPU {level:.0f} %")
        elif isinstance(said, Reading) and said.quiet:
            assert said.since <= now - 5.0
            watched = [(at, value) for at, value in seen if at >= said.since]
            assert watched[0][0] == said.since
            assert all(value is not None and value <= 3.0 for _, value in watched[1:])
            assert all(later - earlier <= 5.0 for (earlier, _), (later, _) in pairwise(watched))


@given(st.lists(st.integers(1, 20).map(lambda quarters: quarters / 4), min_size=1, max_size=200))
def test_a_level_that_stays_low_is_claimed_quiet_as_soon_as_the_window_is_over(waits: list[float]) -> None:
    window, now = QuietWindow(3.0, 5.0, "CPU"), 100.0
    window.take(0.0, now)
    for wait in waits:
        now += wait
        said = window.take(3.0, now)
        assert isinstance(said, Unknown) == (now - 100.0 < 5.0)
        if isinstance(said, Reading):
            assert said.quiet and said.since == 100.0


@pytest.mark.parametrize("later", [105.5, 99.0, 10**6], ids=["a hole", "a clock set back", "a suspend"])
def test_after_a_time_in_which_nobody_looked_the_window_starts_anew(later: float) -> None:
    window = QuietWindow(3.0, 5.0, "CPU")
    for now in (90.0, 94.0, 98.0, 100.0):
        said = window.take(0.0, now)
    assert isinstance(said, Reading) and said.quiet
    assert isinstance(window.take(0.0, later), Unknown)
    assert isinstance(window.take(0.0, later + 4.9), Unknown)
    assert window.take(0.0, later + 5.0) == Reading(True, later, "CPU at most 3 %")


def absent() -> Nvml:
    return Nvml(lambda: Library(0), Path("/nowhere"))


def quiet_since(said: Witness) -> float | None:
    return said.since if isinstance(said, Reading) and said.quiet else None


def run(sampler: Sampler, begun: float, seconds: float, every: float = 0.1) -> list[Sample]:
    """Sample on a clock of our own: an idle kernel uses no CPU however fast that clock goes."""
    return [sampler.sample(begun + every * n) for n in range(round(seconds / every) + 1)]


def test_an_idle_kernel_is_quiet_after_the_window_and_unknown_before(puppet: Puppet) -> None:
    samples = run(Sampler(puppet.pid, nvml=absent()), 50.0, 10.0)
    assert (samples[0].cpu_percent, samples[0].kernel_cpu_percent) == (None, None)
    assert (samples[1].cpu_percent, samples[1].kernel_cpu_percent) == (0.0, 0.0)
    for n, sample in enumerate(samples):
        assert isinstance(sample.processes_witness, Unknown) == (n < 55), n
        assert sample.gpu_witness == Reading(True, 0.0, "no GPU")
    assert quiet_since(samples[-1].processes_witness) == pytest.approx(50.5)


@pytest.mark.parametrize("work", ["burn(0.3)", "start(BURN.format(seconds=0.3)).communicate()"], ids=["self", "child"])
def test_work_that_nobody_announced_is_not_quiet_until_a_window_later(puppet: Puppet, work: str) -> None:
    sampler = Sampler(puppet.pid, nvml=absent())
    assert quiet_since(run(sampler, 0.0, 10.0)[-1].processes_witness) is not None
    puppet.do(work)
    after = run(sampler, 10.1, 10.0)
    assert after[0].cpu_percent is not None and after[0].cpu_percent > 200  # 0.3 s within 0.1 s of this clock
    loud = [n for n, sample in enumerate(after) if quiet_since(sample.processes_witness) is None]
    assert loud == list(range(loud[-1] + 1)) and 5.0 <= 0.1 * loud[-1] <= 6.2
    assert isinstance(after[0].processes_witness, Reading) and "CPU of the process tree" in str(after[0])
    assert 10.1 <= (quiet_since(after[-1].processes_witness) or 0) <= 11.3


def test_a_thread_that_trains_is_work_in_real_time(puppet: Puppet) -> None:
    sampler = Sampler(puppet.pid, nvml=absent())
    puppet.do("threading.Thread(target=burn, args=(60,), daemon=True).start()")
    ends = time.monotonic() + 20
    while True:
        sample = sampler.sample(time.monotonic())
        if isinstance(sample.processes_witness, Reading):
            break
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert not sample.processes_witness.quiet
    assert sample.kernel_cpu_percent is not None and 3 < sample.kernel_cpu_percent < 150


def test_a_failed_look_is_unknown_and_never_0(puppet: Puppet) -> None:
    sampler = Sampler(puppet.pid, nvml=absent())
    assert quiet_since(run(sampler, 0.0, 10.0)[-1].processes_witness) is not None
    with no_descriptors_left():
        sample = sampler.sample(12.0)
    assert (sample.cpu_percent, sample.rss_bytes, sample.processes) == (None, None, None)
    assert isinstance(sample.processes_witness, Unknown) and "/proc" in sample.processes_witness.why
    again = run(sampler, 12.1, 6.0)
    assert isinstance(again[40].processes_witness, Unknown)
    assert quiet_since(again[-1].processes_witness) == pytest.approx(12.1, abs=0.6)


def test_a_kernel_that_is_gone_is_unknown() -> None:
    puppet = Puppet()
    sampler = Sampler(puppet.pid, nvml=absent())
    run(sampler, 0.0, 10.0)
    puppet.end()
    for sample in run(sampler, 10.1, 10.0):
        assert sample.processes_witness == Unknown("the kernel's process is gone")
        assert sample.kernel_cpu_percent is None


@pytest.mark.parametrize("hz", [0.1, 1, 100])
def test_any_rate_comes_to_a_verdict(puppet: Puppet, hz: float) -> None:
    samples = run(Sampler(puppet.pid, hz, nvml=absent()), 0.0, 60.0, 1 / hz)
    assert quiet_since(samples[-1].processes_witness) is not None


def test_a_gpu_that_works_is_not_quiet_and_is_watched_for_a_minute(puppet: Puppet) -> None:
    library = Library()
    sampler = Sampler(puppet.pid, nvml=Nvml(lambda: library, Path("/nowhere")))
    busy = sampler.sample(0.0)
    assert busy.gpu_witness == Reading(False, 0.0, "GPU 37 %")
    library.percent = 0
    after = run(sampler, 1.0, 70.0, 1.0)
    quiet = [n + 1.0 for n, sample in enumerate(after) if quiet_since(sample.gpu_witness) is not None]
    assert quiet[0] == 60.0 and quiet == [60.0 + n for n in range(len(quiet))]
    library.faults["utilization"] = 999
    lost = sampler.sample(73.0)
    assert isinstance(lost.gpu_witness, Unknown) and lost.gpus == () and lost.gpu_why


def test_a_sample_is_plain_data(puppet: Puppet) -> None:
    sampler = Sampler(puppet.pid, nvml=Nvml(Library, Path("/nowhere")))
    for sample in run(sampler, 0.0, 10.0):
        plain = json.loads(json.dumps(sample.as_dict(), allow_nan=False))
    assert plain["gpus"][0] | {"index": 0} == plain["gpus"][0]
    assert set(plain["processes_witness"]) == {"quiet", "since", "detail"}
    with no_descriptors_left():
        failed = json.loads(json.dumps(sampler.sample(20.0).as_dict(), allow_nan=False))
    assert set(failed["processes_witness"]) == {"why"} and failed["cpu_percent"] is None
