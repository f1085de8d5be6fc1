"""`ciuic machines` and `ciuic doctor` against real sshds: what is missing there, what is installed, what is said."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ciuic_jupyter.control import doctor
from ciuic_jupyter.control.checkup import Check
from ciuic_jupyter.errors import MachineUnreachable, ProviderError
from ciuic_jupyter.providers.ssh_machines import SshMachine
from ciuic_jupyter.settings import Settings
from tests.ssh.boxes import Box, User, _addresses, _call
from tests.ssh.doctor_parts import keep_wheels, send


@pytest.fixture
def settings(user: User, plane_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(plane_home / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", str(plane_home / "run"))
    return Settings()


def _there(settings: Settings, machine: SshMachine, *, install: bool) -> list[Check]:
    return asyncio.run(doctor.there(settings, machine, install=install))


def _checks(settings: Settings, target: str, **fields: str) -> dict[str, Check]:
    found = _there(settings, SshMachine("gpu1", target, **fields), install=False)
    return {check.what: check for check in found}


def _refused(settings: Settings, target: str) -> str:
    (check,) = (_checks(settings, target)).values()
    assert (check.what, check.state) == ("ssh", "bad")
    with pytest.raises(MachineUnreachable) as raised:
        _there(settings, SshMachine("gpu1", target), install=True)
    assert str(raised.value) == check.found
    return check.found


def test_a_machine_that_lets_nobody_in_says_why(pair: list[Box], user: User, settings: Settings) -> None:
    one, two = pair
    user.trusts(two)
    assert "is not in known_hosts" in _refused(settings, f"root@{one.address}")
    (user.ssh / "known_hosts").write_text(f"{one.address} {two.host_key}\n")
    assert "is not the one in known_hosts" in _refused(settings, f"root@{one.address}")
    user.trusts(one, two)
    assert "takes none of your keys" in _refused(settings, f"no-such-user@{one.address}")
    (one.etc / "authorized_keys").write_text("")
    assert "takes none of your keys" in _refused(settings, f"root@{one.address}")
    two.crash()
    assert "can't be reached over ssh" in _refused(settings, f"root@{two.address}")


def test_a_machine_behind_another_is_looked_at_through_it(pair: list[Box], user: User, settings: Settings) -> None:
    one, two = pair
    first, second = _addresses()
    inside = [("nsenter", "-t", str(box._process.pid), "-n", "ip") for box in pair if box._process is not None]
    _call(*inside[0], "link", "add", "inner0", "type", "veth", "peer", "name", "inner1")
    assert two._process is not None
    _call(*inside[0], "link", "set", "inner1", "netns", str(two._process.pid))
    for ip, name, address in zip(inside, ("inner0", "inner1"), (first, second), strict=True):
        _call(*ip, "addr", "add", f"{address}/30", "dev", name)
        _call(*ip, "link", "set", name, "up")
    two.part()  # from here on only the first machine leads to it
    with (user.ssh / "known_hosts").open("a") as known:
        known.write(f"{second} {two.host_key}\n")
    user.config(f"Host far\n  HostName {second}\n  User root\n  ProxyJump root@{one.address}\n")
    assert "can't be reached" in (_checks(settings, f"root@{two.address}"))["ssh"].found
    found = _checks(settings, "far", python=sys.executable)
    assert {check.what for check in found.values() if check.state == "bad"} == set(), found
    assert str(two.home) in found["disk"].found
    assert "Accepted publickey" in one.log
    assert "Accepted publickey" in two.log


def test_a_python_that_is_missing_or_too_old_is_said(
    pair: list[Box], user: User, settings: Settings, folder: Path
) -> None:
    one, _ = pair
    programs = folder / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    config = one.etc / "sshd_config"
    one.crash()
    config.write_text(config.read_text().replace("SetEnv HOME=", f"SetEnv PATH={programs} HOME="))
    one.boot()
    target = f"root@{one.address}"
    found = _checks(settings, target)
    assert (found["python"].state, found["python"].found) == ("bad", "none")
    assert "install Python 3." in found["python"].todo
    (programs / "python3").write_text("#!/bin/sh\ncase $* in *exit*) exit 1;; esac\necho 3.9.2\n")  # plays an old one
    (programs / "python3").chmod(0o755)
    found = _checks(settings, target)
    assert found["python"].found == f"3.9.2 at {programs}/python3: too old"
    with pytest.raises(ProviderError, match=r"no Python that is new enough there \(3\.9\.2\); install Python 3\."):
        _there(settings, SshMachine("gpu1", target), install=True)
    newer = programs / f"python3.{sys.version_info[1]}"
    newer.symlink_to(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    assert (
        f"python3 is 3.9.2, too old; {sys.version.split()[0]} at {newer} is"
        in (_checks(settings, target))["python"].found
    )


def test_a_full_disk_is_said_before_anything_is_sent(pair: list[Box], user: User, settings: Settings) -> None:
    one, _ = pair
    place = one.home / ".local/share/ciuic"
    place.mkdir(parents=True)
    assert one._process is not None
    inside = ("nsenter", "-t", str(one._process.pid), "-m")
    _call(*inside, "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place))
    machine = SshMachine("gpu1", f"root@{one.address}", python=sys.executable)
    found = _checks(settings, machine.target, python=sys.executable)
    assert f"0.0 GiB free at {place}" in found["disk"].found
    keep_wheels(settings.state_dir)
    with pytest.raises(ProviderError, match=r"the disk there is full: [01] MiB free, \d+ MiB needed; make room"):
        _there(settings, machine, install=True)
    source = settings.state_dir / "big"
    source.write_bytes(b"x" * (2 << 20))
    with pytest.raises(ProviderError, match=r"big can't be written on the machine: .*disk full"):
        asyncio.run(send(machine.target, source, f"{place}/big"))
    listed = subprocess.run([*inside, "ls", "-A", str(place)], capture_output=True, text=True, check=True)
    assert listed.stdout == "wheels\n", "nothing of the file is left"
    shutil.copy(source, one.home / "filler")
    subprocess.run([*inside, "cp", str(one.home / "filler"), f"{place}/filler"], capture_output=True)
    found = _checks(settings, machine.target, python=sys.executable)
    assert "a file can't be written" in found["disk"].found
    assert "No space left" in found["disk"].found
    with pytest.raises(ProviderError, match="a file can't be written"):
        _there(settings, machine, install=True)
