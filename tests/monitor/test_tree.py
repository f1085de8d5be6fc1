"""A process tree's CPU time: each tick once, whoever used it and however short it lived."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ciuic_jupyter.core.idle import Unknown
from ciuic_jupyter.monitor import tree as tree_module
from ciuic_jupyter.monitor.tree import ProcessTree, TreeUsage
from tests.monitor.puppet import Puppet

TICK = 1 / os.sysconf("SC_CLK_TCK")
SUBREAPER = "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def usage(tree: ProcessTree, now: float) -> TreeUsage:
    found = tree.read(now)
    assert isinstance(found, TreeUsage), found
    return found


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("pinned", [128, 0])
def test_a_thread_and_a_child_that_work_are_seen(puppet: Puppet, pinned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_PINNED", pinned)
    tree = ProcessTree(puppet.pid)
    before = usage(tree, 0.0)
    assert (before.cpu_seconds, before.root_cpu_seconds, before.processes) == (0.0, 0.0, 1)
    puppet.do("work = threading.Thread(target=burn, args=(0.2,)); work.start(); work.join()")
    puppet.do("child = start(BURN.format(seconds=0.3))")
    found = usage(tree, 2.0)
    assert found.processes == 2
    assert found.root_cpu_seconds == pytest.approx(0.2, abs=0.1)
    assert found.cpu_seconds - (found.root_cpu_seconds or 0) == pytest.approx(0.3, abs=0.1)
    assert found.rss_bytes > before.rss_bytes > 1_000_000
    tree.close()


def test_a_slow_walk_over_all_processes_comes_less_often(puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_CENSUS_SHARE", 1 / 200)
    spent = iter([0.0, 0.02, 0.02, 0.022, 0.022, 0.024])  # the first walk takes 20 ms of a core, the next ones 2 ms
    monkeypatch.setattr(tree_module.time, "thread_time", lambda: next(spent))
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("child = start(BURN.format(seconds=0.01))")
    assert [usage(tree, now).processes for now in (1.0, 3.9, 4.0)] == [1, 1, 2]
    puppet.do("other = start(BURN.format(seconds=0.01))")
    assert [usage(tree, now).processes for now in (4.9, 5.0)] == [2, 3]


def test_children_that_live_between_two_looks_are_counted(puppet: Puppet) -> None:
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do(
        "for _ in range(4):\n    made = start(BURN.format(seconds=0.1)); made.communicate(); assert not made.returncode"
    )
    found = usage(tree, 0.1)  # no new census: nobody ever saw these children
    assert found.processes == 1
    assert found.cpu_seconds - (found.root_cpu_seconds or 0) >= 0.4 - 5 * TICK


def test_a_child_that_ends_is_not_counted_again_by_its_parent(puppet: Puppet) -> None:
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    start_self, start_children = puppet.do("used()")
    puppet.do("child = start(BURN.format(seconds=0.4))")
    seen = usage(tree, 1.0)
    assert seen.processes == 2
    puppet.do("child.communicate()")
    after = [usage(tree, 1.1), usage(tree, 1.2), usage(tree, 3.0)]
    end_self, end_children = puppet.do("used()")
    assert [found.processes for found in after] == [1, 1, 1]
    used = end_self - start_self + end_children - start_children
    assert after[-1].cpu_seconds == pytest.approx(used, abs=6 * TICK)


def test_a_child_that_ends_after_its_parent_was_read_is_not_counted_twice(
    puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("child = start(BURN.format(seconds=0.4))")
    seen = usage(tree, 1.0)
    read, done = tree_module._Known.read, []

    def read_and_reap(process: tree_module._Known) -> tree_module._Stat | None:
        found = read(process)
        if process.pid == puppet.pid and not done:
            done.append(puppet.do("child.communicate() and None"))
        return found

    monkeypatch.setattr(tree_module._Known, "read", read_and_reap)
    after = [usage(tree, 1.1), usage(tree, 1.2)]
    assert [found.processes for found in (seen, *after)] == [2, 1, 1]
    assert after[1].cpu_seconds - seen.cpu_seconds < 0.2


def test_time_that_no_parent_got_hides_nothing_later(puppet: Puppet) -> None:
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    puppet.do("child = start(BURN.format(seconds=0.4))")
    usage(tree, 1.0)
    puppet.do("child.communicate(); signal.signal(signal.SIGCHLD, signal.SIG_DFL)")
    lost = usage(tree, 1.1)
    usage(tree, 1.2)
    puppet.do("start(BURN.format(seconds=0.3)).communicate()")
    assert usage(tree, 1.3).cpu_seconds - lost.cpu_seconds >= 0.3 - 2 * TICK


def test_a_zombies_time_stays_and_it_is_no_process(puppet: Puppet) -> None:
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("child = start(BURN.format(seconds=0.2))")
    alive = usage(tree, 1.0)
    puppet.do("child.stdin.close(); os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)")
    zombie = usage(tree, 2.0)
    assert (alive.processes, zombie.processes) == (2, 1)
    assert zombie.cpu_seconds >= alive.cpu_seconds >= 0.2 - TICK


def test_a_storm_of_children_adds_up_and_never_falls(puppet: Puppet) -> None:
    """Looked at without a pause while children of children come and go, so that each race happens."""
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    start = sum(puppet.do("used()"))
    nested = "import os, time\\nif os.fork(): os.wait()\\nwhile time.process_time() < .04: pass"
    puppet.do(f"""
storm_done = False
def storm():
    global storm_done
    for _ in range(12):
        made = [subprocess.Popen([sys.executable, "-ISc", "{nested}"]) for _ in range(2)]
        for one in made:
            one.wait()
    storm_done = True
threading.Thread(target=storm).start()
""")
    now, last = 0.0, 0.0
    while not puppet.do("storm_done"):
        for _ in range(20):
            now += 1.0 if _ % 5 == 0 else 0.01
            found = usage(tree, now).cpu_seconds
            assert found >= last
            last = found
    end = sum(puppet.do("used()"))
    total = usage(tree, now + 1).cpu_seconds
    assert total >= last
    assert total == pytest.approx(end - start, rel=0.1)


def test_orphans_count_through_the_reaper_but_not_what_is_spared(puppet: Puppet) -> None:
    """The puppet is the agent here: its own work and its other children are not the kernel's."""
    puppet.do(SUBREAPER)
    puppet.do("kernel = start(BURN.format(seconds=0.01)); nursery = start(BURN.format(seconds=0.01))")
    kernel, nursery = puppet.do("kernel.pid"), puppet.do("nursery.pid")
    tree = ProcessTree(kernel, reaper=puppet.pid, spared={nursery})
    assert usage(tree, 0.0).processes == 1
    puppet.do("burn(0.3)")
    assert usage(tree, 1.0).cpu_seconds < 0.05
    orphan = "import os, subprocess, sys\\nsubprocess.Popen([sys.executable, '-ISc', sys.argv[1]])"
    puppet.do(f"""
reader, writer = os.pipe()
middle = subprocess.Popen(
    [sys.executable, "-ISc", "{orphan}", BURN.format(seconds=0.3)], stdin=reader, stdout=subprocess.PIPE)
middle.wait()
middle.stdout.readline()
""")
    found = usage(tree, 2.0)
    assert found.processes == 2
    assert found.cpu_seconds >= 0.3 - TICK
    puppet.do("os.close(writer); os.wait()")
    short = usage(tree, 2.1)
    assert short.processes == 1
    assert short.cpu_seconds == pytest.approx(found.cpu_seconds, abs=0.1)


def test_an_orphan_that_nobody_saw_is_counted_when_the_reaper_reaps_it(puppet: Puppet) -> None:
    puppet.do(SUBREAPER)
    puppet.do("kernel = start(BURN.format(seconds=0.01))")
    tree = ProcessTree(puppet.do("kernel.pid"), reaper=puppet.pid)
    usage(tree, 0.0)
    puppet.do("gone = start(BURN.format(seconds=0.3)); gone.communicate()")
    assert usage(tree, 0.1).cpu_seconds >= 0.3 - TICK


@pytest.mark.parametrize("now", [0.1, 2.0], ids=["reading", "census"])
def test_what_can_not_be_read_is_unknown_and_caught_up_later(
    puppet: Puppet, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "_PINNED", 0)
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("burn(0.2)")
    with no_descriptors_left():
        assert isinstance(tree.read(now), Unknown)
    found = usage(tree, now)
    assert found.processes == 1
    assert found.cpu_seconds >= 0.2 - TICK


def test_a_root_that_ended_has_no_time_of_its_own() -> None:
    puppet = Puppet()
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.end()
    for now in (0.1, 5.0):
        found = usage(tree, now)
        assert (found.root_cpu_seconds, found.processes, found.rss_bytes) == (None, 0, 0)


def test_a_process_that_was_never_there_is_an_empty_tree() -> None:
    found = usage(ProcessTree(2**22 + 1), 0.0)
    assert (found.root_cpu_seconds, found.processes) == (None, 0)


def test_any_name_of_a_process_is_read(puppet: Puppet) -> None:
    puppet.do("open('/proc/self/comm', 'w').write(') R (1 2\\n')")
    tree = ProcessTree(puppet.pid)
    usage(tree, 0.0)
    puppet.do("burn(0.1)")
    assert usage(tree, 0.5).cpu_seconds == pytest.approx(0.1, abs=0.06)


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="can't choose the next process number here")
@pytest.mark.parametrize("pinned", [128, 0])
def test_a_stranger_with_the_number_of_one_that_ended_is_not_counted(
    puppet: Puppet, pinned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "_PINNED", pinned)
    tree = ProcessTree(puppet.pid)
    puppet.do("child = start(BURN.format(seconds=0.01))")
    assert usage(tree, 0.0).processes == 2
    before = usage(tree, 0.1).cpu_seconds
    number = puppet.do("child.pid")
    puppet.do("child.communicate()")
    burner = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nimport sys; sys.stdin.read()"
    for _ in range(50):  # another process may take the number first
        LAST_PID.write_text(str(number - 1))
        with subprocess.Popen(
            [sys.executable, "-ISc", burner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as stranger:
            if stranger.pid != number:
                stranger.kill()
                continue
            assert stranger.stdout is not None
            stranger.stdout.readline()
            found = usage(tree, 0.2)
            assert found.processes == 1
            assert found.cpu_seconds - before < 0.2
            return
    pytest.skip("the number could not be had again")


def test_a_reading_leaves_no_descriptor_behind(puppet: Puppet) -> None:
    def held() -> int:
        found = 0
        for each in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the listing's own
                found += os.readlink(each).endswith("/stat")
        return found

    tree, before = ProcessTree(puppet.pid), held()
    usage(tree, 0.0)
    puppet.do("children = [start(BURN.format(seconds=0.0)) for _ in range(5)]")
    usage(tree, 1.0)
    assert held() == before + 6
    puppet.do("[child.communicate() for child in children] and None")
    usage(tree, 2.0)
    assert held() == before + 1
    tree.close()
    assert held() == before
