"""The user's commands: what they say, how they fail, and that what is secret in them is in no process's arguments."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers import ssh_commands
from ciuic_jupyter.providers.ssh_machines import SshMachine


def _machine(**commands: str) -> SshMachine:
    rest = {"start": "true", "stop": "true", "status": "echo running", **commands}
    return SshMachine("gpu1", "me@gpu.example", **rest)


def _arguments() -> bytes:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return b"\n".join(found)


async def test_what_a_command_sets_is_in_no_arguments_while_it_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    secret = f"hush-{os.getpid()}-{tmp_path.name}"
    command = f'KEY={secret} sh -c \'read word <"{go}"; printf %s "$KEY" >"{tmp_path}/seen"\''
    running = asyncio.create_task(ssh_commands.act(_machine(start=command), "start"))
    pipe = await asyncio.to_thread(go.open, "w")  # opens when the command reads it
    assert secret.encode() not in _arguments()
    assert str(go).encode() in _arguments(), "the command runs, and what it calls is its own"
    pipe.write("now\n")
    pipe.close()
    await running
    assert (tmp_path / "seen").read_text() == secret


async def test_a_failure_says_its_exit_code_and_the_end_of_its_words_alone() -> None:
    loud = "KEY=hush; head -c 3000000 /dev/zero | tr '\\0' x; printf 'no \\033[2Jcapacity' >&2; exit 7"
    with pytest.raises(
        ProviderError, match=r"start command of gpu1 failed \(exit code 7\): no  \[2Jcapacity"
    ) as raised:
        await ssh_commands.act(_machine(start=loud), "start")
    assert "hush" not in str(raised.value)
    assert str(raised.value).endswith("no  [2Jcapacity")
    assert len(str(raised.value)) < 1000
    assert len((await ssh_commands._shell(_machine(), "start", loud, 60)).out) <= ssh_commands._MOST


async def test_a_command_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    hangs = f"KEY=hush; sh -c 'echo $$ >{tmp_path}/pid; read x <{tmp_path}/never'"
    with pytest.raises(ProviderError, match="stop command of gpu1 did not end in 2 s") as raised:
        await ssh_commands._shell(_machine(), "stop", hangs, 2)
    assert "hush" not in str(raised.value)
    await asyncio.to_thread(_gone, tmp_path / "pid")


def _gone(file: Path) -> None:
    """Wait for the end of the process whose number is in a file, if it got so far."""
    line = Path("/proc", file.read_text().strip(), "cmdline") if file.exists() else file
    with suppress(OSError):
        while b"never" in line.read_bytes():
            time.sleep(0.02)


async def test_status_is_a_word_or_no_answer() -> None:
    assert await ssh_commands.exists(_machine(status="echo '\"running\"'"))
    assert not await ssh_commands.exists(_machine(status="echo Terminated."))
    for status in ("true", "echo stopped; exit 1", "cat"):
        with pytest.raises(ProviderError, match=r"status command of gpu1 told nothing \(exit code [01]\)"):
            await ssh_commands.exists(_machine(status=status))
