"""A connection as OpenSSH would make it: who is trusted, what is refused, and what a user is told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ciuic_jupyter.errors import MachineUnreachable, UsageError
from ciuic_jupyter.providers import ssh_link
from ciuic_jupyter.providers.ssh_link import Target
from tests.ssh.boxes import Box, User, _call


async def _said(target: str, *command: str, data: bytes = b"") -> str:
    connection = await ssh_link.connect(Target.parse(target))
    try:
        done = await ssh_link.run(connection, command, data=data)
        assert done.code == 0, done
        return done.out.decode().strip()
    finally:
        connection.abort()
        await connection.wait_closed()


async def test_a_command_runs_there_and_its_input_is_its_own(pair: list[Box], user: User) -> None:
    one, two = pair
    homes = await asyncio.gather(
        *(_said(f"root@{box.address}", "sh", "-c", 'cat; printf %s "$HOME"', data=b"a 'b'; $c|") for box in pair)
    )
    assert homes == [f"a 'b'; $c|{one.home}", f"a 'b'; $c|{two.home}"]
    connection = await ssh_link.connect(Target.parse(f"root@{one.address}"))
    done = await ssh_link.run(connection, ["sh", "-c", "echo bad >&2; exit 3"])
    assert (done.code, done.said) == (3, "bad")
    connection.abort()


async def test_aliases_and_jumps_of_the_config_count(pair: list[Box], user: User) -> None:
    one, two = pair
    user.config(
        f"Host gpu1\n  HostName {one.address}\n  User root\n  IdentityFile {user.key}\n"
        f"Host inner\n  HostName 127.0.0.1\n  User root\n  ProxyJump gpu2\n  HostKeyAlias inner\n"
        f"Host gpu2\n  HostName {two.address}\n  User root\n"
    )
    with (user.ssh / "known_hosts").open("a") as known:
        known.write(f"inner {two.host_key}\n")
    assert await _said("gpu1", "printenv", "HOME") == str(one.home)
    assert await _said("inner", "printenv", "HOME") == str(two.home)  # its own loopback, behind the jump


async def test_an_unknown_host_key_is_refused_and_nothing_is_sent(pair: list[Box], user: User) -> None:
    one, two = pair
    user.trusts(two)
    user.config("Host *\n  StrictHostKeyChecking no\n")
    with pytest.raises(MachineUnreachable, match=r"not in known_hosts \(ssh-ed25519 SHA256:.*with `ssh root@"):
        await _said(f"root@{one.address}", "true")
    assert "Accepted publickey" not in one.log


async def test_a_changed_host_key_is_told_apart(pair: list[Box], user: User) -> None:
    one, _ = pair
    (user.ssh / "known_hosts").write_text(f"{one.address} {pair[1].host_key}\n")
    with pytest.raises(MachineUnreachable, match=rf"is not the one in known_hosts.*`ssh-keygen -R {one.address}`"):
        await _said(f"root@{one.address}", "true")
    assert "Accepted publickey" not in one.log


async def test_a_key_that_is_not_taken_says_what_to_do(
    pair: list[Box], user: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, _ = pair
    (one.etc / "authorized_keys").write_text("")
    with pytest.raises(MachineUnreachable, match=r"takes none of your keys.*must work without a question"):
        await _said(f"root@{one.address}", "true")
    user.key.unlink()
    _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(user.key))
    with pytest.raises(MachineUnreachable, match="takes none of your keys"):
        await _said(f"root@{one.address}", "true")
    assert "sesame" not in caplog.text


async def test_a_cut_line_is_noticed_within_ten_seconds(pair: list[Box], user: User) -> None:
    one, _ = pair
    connection = await ssh_link.connect(Target.parse(f"root@{one.address}"))
    running = asyncio.create_task(ssh_link.run(connection, ["sleep", "600"], seconds=600))
    assert (await ssh_link.run(connection, ["true"])).code == 0
    one.part()
    with pytest.raises(MachineUnreachable, match="line to the machine broke"):
        await asyncio.wait_for(running, 60)
    assert ssh_link.KEEPALIVE_SECONDS * (ssh_link.KEEPALIVE_COUNT + 1) < 10
    with pytest.raises(MachineUnreachable, match="can't be reached over ssh"):
        await ssh_link.connect(Target.parse(f"root@{one.address}"), seconds=1)
    one.heal()
    assert await _said(f"root@{one.address}", "printenv", "HOME") == str(one.home)


NO_TARGETS = ["", "-oProxyCommand=x", "root@-x", "a b", "a;b", "user@host:0", "user@host:99999", "u@h@i", "a\nb"]


@pytest.mark.parametrize("text", [*NO_TARGETS, "$(x)", "user@", "[::1", "x" * 300])
def test_targets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no ssh target"):
        Target.parse(text)


@pytest.mark.parametrize("text", ["gpu1", "root@gpu1", "root@10.0.0.1:2222", "me@[2001:db8::1]:22", "a-b.example.org"])
def test_targets_say_themselves(text: str) -> None:
    assert str(Target.parse(text)) == text
