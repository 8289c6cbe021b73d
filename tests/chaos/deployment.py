"""A whole federation on this machine: its authority, its server process, its users and devices.

After a kill the server is started again on the same ports, as an operator's would be.
"""

from __future__ import annotations

import json
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

from fedclient import Client
from tests.chaos.devices import Device
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.programs import FED, Program, environment, until
from tests.chaos.users import User
from tests.ports import free_ports

__all__ = ["Deployment", "Figures", "address_of"]

_READY_S: Final = 120.0
_TRUST_DOMAIN: Final = "fl.test"
Labels = frozenset[tuple[str, str]]


class Figures:
    """The server's metrics at one moment."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name which have these labels; 0 for none."""
        wanted = frozenset(labels.items())
        return sum(v for (n, given), v in self._values.items() if n == name and wanted <= given)


class Deployment:
    """A server with a folder of its own. Nothing runs before `start`; close it in the end.

    `proxy`: lies before the services, for devices alone: users go straight. `settings`: of
    server.toml, by section, in addition.
    """

    def __init__(
        self, folder: Path, *, proxy: FaultProxy | None = None, **settings: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state = folder / "state"
        self._ports: dict[str, int] = {"port": 0, "enrolment_port": 0, "ops_port": 0}
        self._settings = settings
        self._proxy = proxy
        if proxy is not None:
            self._ports["port"] = proxy.target = free_ports(1)[0]
        self._server: Program | None = None
        self._programs = ExitStack()
        self._stand_ins = 0
        self.starts_s: list[float] = []
        self._fed("ca", "init", "--trust-domain", _TRUST_DOMAIN, "--host", "localhost",
                  "--directory", str(self.authority))  # fmt: skip

    @property
    def authority(self) -> Path:
        """The folder of the certificate authority and of the server's keys."""
        return self.folder / "authority"

    @property
    def server(self) -> Program:
        """The present server process, or the last."""
        assert self._server is not None
        return self._server

    @property
    def address(self) -> str:
        """host:port of the services, on the straight way."""
        return address_of(self._ports["port"])

    def start(self, *, failpoints: str = "") -> Self:
        """Starts the server; returns when it is ready, or was killed by a failpoint before."""
        begun_s = time.monotonic()
        self._write_settings(self._config, self._ports)
        until(lambda: self._started(failpoints), "the server starts")
        until(
            lambda: self.server.was_killed or self.is_ready(),
            "the server is ready",
            timeout_s=_READY_S,
        )
        if not self.server.was_killed:
            self.starts_s.append(time.monotonic() - begun_s)
        return self

    def start_again(self, *, failpoints: str = "") -> Self:
        """Kills the server if it runs, and starts it."""
        self.server.end()
        return self.start(failpoints=failpoints)

    def stand_by(self) -> None:
        """Starts another server with the same settings, which waits for its turn."""
        ports = {**self._ports, "ops_port": free_ports(1)[0]}
        self._stand_ins += 1
        config = self.folder / f"stand-in-{self._stand_ins}.toml"
        self._write_settings(config, ports)
        program = self._program(config, log=config.with_suffix(""))
        self._programs.callback(program.end)
        self._standing_by = ports, program
        until(
            lambda: "stands by" in _body_of(_url(ports, "readyz")),
            "another server stands by",
            timeout_s=_READY_S,
        )

    def fail_over(self) -> None:
        """Kills the server; returns when the one that stands by has taken its turn."""
        self.server.end()
        begun_s = time.monotonic()
        self._ports, self._server = self._standing_by
        until(self.is_ready, "the other server serves", timeout_s=_READY_S)
        self.starts_s.append(time.monotonic() - begun_s)

    def is_ready(self, ports: Mapping[str, int] | None = None) -> bool:
        """What /readyz says. `ports`: of another server than the present one."""
        said = _body_of(_url(ports or self._ports, "readyz"))
        return bool(said) and bool(json.loads(said)["ready"])

    def figures(self) -> Figures:
        """What /metrics says."""
        with urllib.request.urlopen(self._ops("metrics"), timeout=10) as answer:
            return Figures(answer.read().decode())

    @cached_property
    def admin(self) -> User:
        """An administrator, whose profile is made at the first use."""
        self._fed("ca", "issue", "--name", "ada", "--role", "admin", "--directory",
                  str(self.authority), "--address", self.address, "--output",
                  str(self.folder / "ada"))  # fmt: skip
        return User(self.folder / "ada")

    def join(self, *names: str, join_string: str | None = None) -> list[Device]:
        """New members of these names, by one token if none is given."""
        string = join_string or self.admin.token(uses=len(names))
        devices = []
        for name in names:
            folder = self.folder / "devices" / name
            Client.join(string, directory=folder, name=name).close()
            devices.append(self.keep(Device(folder)))
        return devices

    def keep(self, device: Device) -> Device:
        """Sees to it that a device's process ends with the deployment."""
        self._programs.callback(device.end)
        return device

    def close(self) -> None:
        """Ends every process at once."""
        self._programs.close()
        if self._server is not None:
            self._server.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _started(self, failpoints: str) -> bool:
        """One try: false where a port was taken meanwhile, as by a client's own connection."""
        log = self.folder / "server"
        self._server = server = self._program(self._config, log=log, failpoints=failpoints)
        until(
            lambda: server.said or server.code is not None,
            "the server says where it serves",
            timeout_s=_READY_S,
        )
        if server.was_killed:
            return True
        if not server.said:
            assert "in use" in server.complaints, server.complaints
            return False
        data = json.loads(server.said.splitlines()[0])["data"]
        for name, key in (
            ("port", "service"),
            ("enrolment_port", "enrolment"),
            ("ops_port", "ops"),
        ):
            if key != "service" or self._proxy is None:  # of which it tells the proxy's port
                self._ports[name] = int(str(data[key]).rpartition(":")[2])
        return True

    def _program(self, config: Path, *, log: Path, failpoints: str = "") -> Program:
        command = [FED, "server", "--format", "jsonl", "start", "--config", str(config)]
        return Program([*command, "--test-mode"], log=log, failpoints=failpoints)

    @property
    def _config(self) -> Path:
        return self.folder / "server.toml"

    def _write_settings(self, config: Path, ports: Mapping[str, int | str]) -> None:
        sections: dict[str, dict[str, Any]] = {
            "server": {
                **ports,
                "hosts": ["localhost"],
                "state_directory": str(self.state),
                "notice_s": 0.0,
                "address": self._proxy.address if self._proxy else "",
            },
            "authority": {"directory": str(self.authority)},
            "logging": {"form": "json"},
        }
        for name, values in self._settings.items():
            sections[name] = {**sections.get(name, {}), **values}
        text = "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in values.items())
            for name, values in sections.items()
        )
        tomllib.loads(text)
        config.write_text(text)

    def _ops(self, path: str) -> str:
        return _url(self._ports, path)

    def _fed(self, *arguments: str) -> None:
        done = subprocess.run(
            [FED, *arguments], capture_output=True, text=True, env=environment(), timeout=_READY_S
        )
        assert done.returncode == 0, done.stderr


def address_of(port: int) -> str:
    """host:port of this machine."""
    return f"localhost:{port}"


def _url(ports: Mapping[str, int], path: str) -> str:
    return f"http://127.0.0.1:{ports['ops_port']}/{path}"


def _body_of(url: str) -> str:
    """What an ops port answers, also where it is not ready; nothing where none does."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except (urllib.error.URLError, OSError):
        return ""
