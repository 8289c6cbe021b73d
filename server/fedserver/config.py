"""The server's settings: a TOML file and the environment, and no secret in either.

`FEDCORE__SERVER__PORT=7443` stands above `server.port` of the file. A key that is not known is an
error, because a misspelt limit would silently not be one. Where a secret is needed, its field names
a file or, as `env:NAME`, a variable.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fedcore.errors import JoinStringError
from fedcore.toml import located, parse, text_of
from fedcore.wire.joining import split_address
from fedserver.config_mistakes import explained, read_texts, setting_mistake, unknown_setting
from fedserver.objects import ObjectAddress
from fedserver.store.postgres.address import Database, PostgresAddress

__all__ = [
    "AUTHORITY",
    "STATE",
    "AuthoritySettings",
    "Config",
    "LimitSettings",
    "LoggingSettings",
    "RoundSettings",
    "ServerSettings",
    "load",
]

STATE: Final = Path("fed-state")
AUTHORITY: Final = "authority"

PREFIX = "FEDCORE__"
_PORT = Field(ge=0, le=65_535)
_PORTS = ("port", "enrolment_port", "ops_port")
_Directory = Annotated[Path, Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _loopback(host: str) -> str:
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return host
    raise ValueError("it has to be an address of this machine, like 127.0.0.1")


def _secret(source: str) -> str:
    if not re.fullmatch(r"(env:[A-Za-z_][A-Za-z0-9_]*|[\w./-]+)?", source):
        raise ValueError("it has to be a path, or env:NAME")
    return source


def _postgres(url: str) -> str:
    if url:
        PostgresAddress(url)
    return url


def _objects(url: str) -> str:
    if url:
        ObjectAddress(url)
    return url


def _endpoint(url: str) -> str:
    if url:
        ObjectAddress("s3://bucket", url)
    return url


def _peer(address: str) -> str:
    if not re.fullmatch(r"(([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5})?", address, re.ASCII):
        raise ValueError("it has to be host:port")
    return address


def _told(address: str) -> str:
    """As it stands in invitations."""
    if address:
        try:
            split_address(address)
        except JoinStringError:
            raise ValueError("it has to be host:port, as clients reach the server") from None
    return address


class ServerSettings(_Section):
    """Where the server listens, what it is called, and where its data are.

    `host`, `port`: of the services that need a certificate; 0 lets the system choose a port.
    `hosts`: names and addresses by which clients reach it, which its certificate names.
    `address`, `enrolment_address`: host:port that clients are told, where it is not the first of
    `hosts` with the port. After the order to stop check-ins are sent away for `notice_s`, and calls
    may go on for `drain_s`. `database_url`: of PostgreSQL; empty: a SQLite file in the state
    directory. Its password stands in `database_password_file`, or where libpq looks for one.
    `blobs_url`: of a bucket for models; empty: a folder in the state directory. `blobs_endpoint`:
    of a store that speaks S3 and is not Amazon's.
    `peer_address`: host:port at which the other servers on the database reach this one; each has
    its own. Empty: it serves alone, and others stand by.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, _PORT] = 7443
    enrolment_port: Annotated[int, _PORT] = 7444
    ops_host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    ops_port: Annotated[int, _PORT] = 7445
    hosts: Annotated[tuple[str, ...], Field(min_length=1, max_length=32, strict=False)] = (
        "localhost",
        "127.0.0.1",
    )
    address: Annotated[str, AfterValidator(_told)] = ""
    enrolment_address: Annotated[str, AfterValidator(_told)] = ""
    state_directory: _Directory = STATE
    database_url: Annotated[str, AfterValidator(_postgres)] = ""
    database_password_file: Annotated[str, AfterValidator(_secret)] = ""
    blobs_url: Annotated[str, AfterValidator(_objects)] = ""
    blobs_endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    peer_address: Annotated[str, AfterValidator(_peer)] = ""
    notice_s: Annotated[float, Field(ge=0, le=60)] = 1.0
    drain_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    reflection: bool = False


class AuthoritySettings(_Section):
    """The certificate authority: its folder, and where the passphrase of its key is.

    An empty `directory` is the folder `authority` in the state directory.
    """

    directory: str = ""
    passphrase_file: Annotated[str, AfterValidator(_secret)] = ""


class LimitSettings(_Section):
    """What the server lets in at once; units stand in the names.

    `connections`: of members; strangers have a tenth of it beside, and where the process may open
    few files both have fewer. `enrolments_per_minute`: tries of one network address, of which those
    that succeed are not counted, and also how many may come at once. `failed_enrolments`: wrong
    tokens in a row after which an address is locked out for 15 minutes. `upload_bytes`: of all
    updates that are in memory on their way to the disk. `model_bytes`: of the file of a task's
    first model. `memory_bytes`: above which the server is not ready for new work; 0: no limit.
    """

    connections: Annotated[int, Field(ge=16, le=1_000_000)] = 15_000
    concurrent_rpcs: Annotated[int, Field(ge=1, le=100_000)] = 1000
    queue: Annotated[int, Field(ge=0, le=100_000)] = 1000
    queue_wait_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    waiting_rpcs: Annotated[int, Field(ge=1, le=1_000_000)] = 12_000
    upload_bytes: Annotated[int, Field(ge=1 << 20)] = 512 << 20
    model_bytes: Annotated[int, Field(ge=1)] = 4 << 30
    calls_per_second: Annotated[float, Field(gt=0)] = 50.0
    calls_at_once: Annotated[int, Field(ge=1)] = 100
    loop_lag_s: Annotated[float, Field(gt=0)] = 0.25
    enrolments_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    failed_enrolments: Annotated[int, Field(ge=1, le=10_000)] = 10
    disk_free: Annotated[float, Field(ge=0, lt=1)] = 0.1


class RoundSettings(_Section):
    """How tasks are driven, whatever they say themselves.

    `lease_s`: how long a server that is gone keeps others from driving its tasks.
    `most_attempts`: starts of a driver without its round getting on, then the attempt is given up;
    those that met what may pass, as a full disk, do not count.
    `check_ins_per_second`: what a large population is spread to.
    """

    lease_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    most_attempts: Annotated[int, Field(ge=1)] = 10
    check_ins_per_second: Annotated[float, Field(gt=0)] = 500.0


class LoggingSettings(_Section):
    """`form`: "auto" is text on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["auto", "json", "text"] = "auto"


class _Environment(EnvSettingsSource):
    """Variables, whose texts stand for numbers where a number is wanted."""

    def __call__(self) -> dict[str, Any]:
        return read_texts(super().__call__(), self.settings_cls)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON, or what is none as the text that it is, which the schema then refuses by name."""
        try:
            return json.loads(value)
        except ValueError:
            return value


class Config(BaseSettings):
    """All settings. `test_mode`: takes the failpoints that the environment names.

    >>> Config.of({"server": {"port": 0}}).server.port
    0
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, strict=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )

    server: ServerSettings = ServerSettings()
    authority: AuthoritySettings = AuthoritySettings()
    limits: LimitSettings = LimitSettings()
    rounds: RoundSettings = RoundSettings()
    logging: LoggingSettings = LoggingSettings()
    test_mode: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment above the file."""
        return _Environment(settings_cls), init_settings

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Config:
        """Settings from parsed values and the environment.

        Raises: TaskError, whose `where` is a dotted path, or the name of a variable.
        """
        for name in sorted(os.environ):
            section = name.removeprefix(PREFIX).lower().partition("__")[0]
            if name.startswith(PREFIX) and section not in cls.model_fields:
                raise unknown_setting((section,), cls, variable=name)
        try:
            found = cls(**values)
        except ValidationError as error:
            raise explained(error.errors(include_url=False)[0], cls) from None
        _check_ports(found.server)
        _check_peers(found.server)
        return found

    @property
    def database(self) -> Database:
        """Where the database is: a file is SQLite's."""
        server = self.server
        if server.database_url:
            return PostgresAddress(server.database_url, server.database_password_file)
        return server.state_directory / "fed.db"

    @property
    def blobs(self) -> ObjectAddress | None:
        """Where models are kept, if not in the state directory."""
        server = self.server
        return ObjectAddress(server.blobs_url, server.blobs_endpoint) if server.blobs_url else None

    @property
    def authority_directory(self) -> Path:
        """The folder of the certificate authority."""
        given = self.authority.directory
        return Path(given) if given else self.server.state_directory / AUTHORITY


def load(path: Path | None = None) -> Config:
    """The settings of a file, by default none, and of the environment.

    Raises: TaskError with file and line, the value, what is allowed, and the nearest name.
    """
    if path is None:
        return Config.of({})
    text, source = text_of(path), path.name
    with located(text, source):
        return Config.of(_plain(parse(text, source)))


def _check_ports(server: ServerSettings) -> None:
    for other, name in itertools.combinations(_PORTS, 2):
        port = getattr(server, name)
        if port and port == getattr(server, other):
            # Of a port that was set and one by default, the first is the mistake.
            key = name if name in server.model_fields_set else other
            raise setting_mistake(
                ("server", key),
                Config,
                port,
                f"the two ports are the same: {other} and {name}",
                "give each its own, or 0 for any free one",
            )


def _check_peers(server: ServerSettings) -> None:
    if server.peer_address and not server.database_url:
        raise setting_mistake(
            ("server", "peer_address"),
            Config,
            server.peer_address,
            "several servers share a PostgreSQL database, and no SQLite file",
            "set database_url, or leave peer_address out",
        )


def _plain(value: Any) -> Any:
    """Numbers with a point as floats: nothing here needs their exact text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value
