"""Alerts on their way out of the plane: a webhook, a desktop notification; bounded in time, never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from ciuic_jupyter.errors import UsageError

_SECONDS = 5.0
_SIGNS_IN_URL = ("http", "https")

Alert = Mapping[str, Any]


def check_webhook(url: str) -> None:
    """Raise UsageError unless `url` can be posted to."""
    parts = urlsplit(url)
    if parts.scheme not in _SIGNS_IN_URL or not parts.hostname:
        raise UsageError("CIUIC_ALERT_WEBHOOK is no address of http or https; nothing was started")


async def post(url: str, alert: Alert) -> str | None:
    """Post an alert as JSON; return why it did not arrive, without the address (it may hold a secret), or None."""
    try:
        async with asyncio.timeout(_SECONDS + 1):
            return await asyncio.to_thread(_post, url, dict(alert))
    except TimeoutError:
        return f"{urlsplit(url).hostname} did not answer within {_SECONDS:.0f} s"


def _post(url: str, alert: dict[str, Any]) -> str | None:
    host = urlsplit(url).hostname
    try:
        with requests.post(url, json=alert, timeout=_SECONDS, allow_redirects=False, stream=True) as answer:
            return None if answer.ok else f"{host} answered {answer.status_code}"
    except requests.RequestException as error:
        return f"{host} could not be reached ({type(error).__name__})"


async def notify(text: str, program: str = "notify-send") -> str | None:
    """Show a desktop notification; return why it was not shown, or None."""
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            "--app-name=ciuic",
            "ciuic",
            text,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        return f"{program} can't be started: {error.strerror}"
    try:
        async with asyncio.timeout(_SECONDS):
            code = await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        return f"{program} did not end within {_SECONDS:.0f} s"
    return None if code == 0 else f"{program} ended with {code}"


def body(session: str, text: str, *, percent: int, limit: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Return an alert as JSON: who, which budget, how much of it."""
    found = {"session": session, "text": text, "mark": percent, "currency": currency, **limit}
    json.dumps(found)
    return found
