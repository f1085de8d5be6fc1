"""Every knob, once: read from CIUIC_* variables and defaults, passed down as values."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_state_path
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ciuic_jupyter.core.money import check_currency
from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import UsageError


def _default_runtime() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "ciuic" if base else Path(f"/tmp/ciuic-{os.getuid()}")


class Settings(BaseSettings):
    """One frozen record; each field can be set by `CIUIC_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="CIUIC_", frozen=True, extra="ignore", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Read everything; UsageError names each variable that can't be used, and why."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError("; ".join(_said(one) for one in error.errors(include_url=False))) from None

    @field_validator("currency")
    @classmethod
    def _currency(cls, code: str) -> str:
        try:
            return check_currency(code)
        except UsageError as error:
            raise ValueError(str(error)) from None

    state_dir: Path = Field(default_factory=lambda: user_state_path("ciuic"), description="ledger, keys, checkpoints")
    runtime_dir: Path = Field(default_factory=_default_runtime, description="unix sockets; a short path")
    url: str | None = Field(None, description="address of a shared control plane; none: your own, started on demand")
    token: SecretStr | None = Field(None, description="token of the shared control plane")

    instance: str = Field("local.cpu", description="machine type used when a cell names none; `auto`: the cheapest")
    price_per_hour: Decimal = Field(Decimal("0.90"), ge=0, le=100000, description="price of `local` machines, per hour")
    storage_price_per_hour: Decimal = Field(
        Decimal("0"), ge=0, le=100000, description="price of kept checkpoints, per session-hour"
    )
    checkpoint_url: str | None = Field(
        None, description="where checkpoints are kept too, like `s3://bucket/folder`; none: in the state directory only"
    )
    prices: Path | None = Field(
        None, description="price rows of your own for `ciuic prices` and `ciuic compare`, in TOML"
    )
    earlier_checkpoints: int = Field(
        2, ge=1, le=10000, description="checkpoints of a session kept beside its newest; older ones go behind a save"
    )
    grid_region: str | None = Field(
        None, description="country whose grid feeds the machines, like `DEU`, for grams of CO2e; none: unknown"
    )
    currency: str = Field("USD", description="currency of prices and budgets, by its code in ISO 4217")
    budget_per_run: Decimal | None = Field(
        None, gt=0, le=10**8, description="most a cell may cost, if it names nothing"
    )
    budget_per_day: Decimal | None = Field(None, gt=0, le=10**8, description="most all sessions may cost in a day")
    budget_per_month: Decimal | None = Field(None, gt=0, le=10**8, description="most they may cost in a month")
    budget_total: Decimal | None = Field(None, gt=0, le=10**8, description="most they may ever cost")
    alert_webhook: SecretStr | None = Field(None, description="address that alerts of budgets are posted to, as JSON")
    alert_desktop: bool = Field(False, description="show alerts with `notify-send`, too")

    idle_release: bool = Field(True, description="save and release machines whose kernel is idle")
    wait_value_per_hour: Decimal = Field(
        Decimal("30"), ge=0, le=100000, description="what an hour of your waiting is worth"
    )
    idle_floor_seconds: float = Field(60, ge=1, le=86400, description="never release before this much quiet")
    max_resumes_per_100: int | None = Field(
        None,
        ge=0,
        le=100,
        description="how often in 100 cells an idle release may make you wait; none: as the money says",
    )
    unknown_limit_seconds: float | None = Field(
        None, ge=60, le=10**7, description="release a machine whose idleness is unknown for so long; none: never"
    )
    checkpoint_seconds: float = Field(
        3, gt=0, description="assumed time of a save, until this session has measured one"
    )
    restore_seconds: float = Field(5, gt=0, description="assumed time of a restore, until measured")
    keep_limit_seconds: float = Field(86400, gt=0, description="longest `%ciuic_keep`")

    pause_grace_seconds: float = Field(
        60, ge=0, le=86400, description="a pause that finds no loop boundary for so long asks whether to wait on"
    )
    save_failure_limit_seconds: float = Field(
        1800, gt=0, description="how long a failing save is retried on a paid machine"
    )
    last_resort: Literal["keep", "discard"] = Field(
        "keep", description="after that limit: keep paying, or lose the state"
    )
    lease_seconds: float = Field(
        600, ge=5, description="a machine that hears nothing for this long saves and stops itself"
    )
    reconcile_seconds: float = Field(60, gt=0, description="how often the provider's list is compared with the ledger")
    start_timeout_seconds: float = Field(300, gt=0, description="a machine that is not ready by then is stopped")

    metrics_sessions: bool = Field(
        False, description="show Prometheus each session, by name in a label; else no name or id is in any"
    )
    metrics_sessions_limit: int = Field(
        200, ge=1, le=100000, description="most sessions shown so, the open and newest first; a gauge counts the others"
    )

    sample_hz: float = Field(10, gt=0, le=100, description="usage samples per second")
    warm_start: bool = Field(True, description="keep a warm parent process with torch imported, for fast starts")
    warm_modules: str = Field("numpy,torch", description="modules the warm parent imports")


def _said(error: Mapping[str, Any]) -> str:
    """Return what is wrong with one variable; a secret is not repeated."""
    name = str(error["loc"][0]) if error["loc"] else "settings"
    field = Settings.model_fields.get(name)
    secret = field is None or "Secret" in str(field.annotation)
    value = "" if secret else f"={str(error['input'])[:40]!r}"
    why = str(error["msg"]).removeprefix("Value error, ")
    return plain(f"CIUIC_{name.upper()}{value} can't be used: {why}; correct or unset it, nothing was started")


def private_directory(path: Path) -> Path:
    """Make `path` a directory of mode 0700 that is ours, and return it; UsageError if someone else's or a symlink."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UsageError(
            f"{path} is not a directory of yours (a link, or another user's); "
            "remove it, or set CIUIC_STATE_DIR or CIUIC_RUNTIME_DIR to another place"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode != 0o700:
        path.chmod(0o700)
        if mode & 0o022 and (theirs := _of_others(path)):
            path.chmod(mode)  # so that the next call looks again
            raise UsageError(
                f"others could write in {path}, and {', '.join(theirs)} there belongs to another user; remove it"
            )
    return path


def _of_others(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(each.name for each in entries if each.stat(follow_symlinks=False).st_uid != os.getuid())


def read_private(path: Path) -> str:
    """Return the text of a file that only its user can read and write; UsageError if it is not such a file.

    FileNotFoundError if there is none. A link, a pipe, another user's file: all could say what somebody else wants.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UsageError(f"{path} can't be read: {error.strerror}; a link there is not followed, remove it") from error
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UsageError(
                f"{path} is not a file that is yours alone (another user's, or open to others); "
                "remove it, or `chmod 600` it if you know what it says"
            )
        return b"".join(iter(lambda: os.read(number, 1 << 16), b"")).decode()
    finally:
        os.close(number)
