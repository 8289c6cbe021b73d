"""Several servers that serve one federation at once: one database, one state folder, one authority.

Devices come to any of them, through a balancer of connections.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.deployment import Deployment, address_of
from tests.chaos.programs import Program, until
from tests.chaos.round_robin import RoundRobin
from tests.chaos.users import User
from tests.ports import free_ports
from tests.postgres import Postgres

__all__ = ["Fleet"]

_PORTS: Final = ("port", "enrolment_port", "ops_port")
LEASE_S: Final = 3.0


class Fleet(Deployment):
    """So many servers over a new database of `postgres`; `start` starts all of them.

    `server` and what is asked of its ops port are the first one's.
    """

    def __init__(
        self, folder: Path, postgres: Postgres, *, servers: int = 3, **settings: Mapping[str, Any]
    ) -> None:
        self._postgres, self._database = postgres, postgres.database()
        free = iter(free_ports(servers * len(_PORTS)))
        self._all = [{name: next(free) for name in _PORTS} for _ in range(servers)]
        self._balancer = RoundRobin([ports["port"] for ports in self._all])
        server = {
            "database_url": postgres.url(self._database),
            "address": address_of(self._balancer.port),
            "enrolment_address": address_of(self._all[0]["enrolment_port"]),
        }
        rounds = {"lease_s": LEASE_S}
        super().__init__(folder, server=server, rounds=rounds, **settings)
        self._servers: dict[int, Program] = {}
        self._users: dict[int, User] = {}

    @property
    def address(self) -> str:
        return address_of(self._balancer.port)

    def start(self, *, failpoints: str = "") -> Fleet:
        for number in range(len(self._all)):
            self.start_one(number, failpoints=failpoints)
        self._ports, self._server = self._all[0], self._servers[0]
        return self

    def start_one(self, number: int, *, failpoints: str = "") -> Program:
        """Starts a server; returns when it is ready, or was killed by a failpoint before."""
        ports, config = self._all[number], self.folder / f"server-{number}.toml"
        own = {**ports, "peer_address": address_of(ports["port"])}
        self._write_settings(config, own)
        program = self._program(config, log=config.with_suffix(""), failpoints=failpoints)
        self._servers[number] = program
        until(lambda: program.code is not None or self.is_ready(ports), "a server is ready")
        assert program.code is None or program.was_killed, program.complaints
        return program

    def start_again_one(self, number: int, *, failpoints: str = "") -> Program:
        """Kills a server if it runs, and starts it."""
        self.kill(number)
        return self.start_one(number, failpoints=failpoints)

    def program(self, number: int) -> Program:
        """The present process of a server, or the last."""
        return self._servers[number]

    def user(self, number: int) -> User:
        """An administrator who gives commands to that server and no other."""
        if number not in self._users:
            name = f"ada-{number}"
            address = address_of(self._all[number]["port"])
            self._fed("ca", "issue", "--name", name, "--role", "admin", "--directory",
                      str(self.authority), "--address", address, "--output",
                      str(self.folder / name))  # fmt: skip
            self._users[number] = User(self.folder / name)
        return self._users[number]

    def holder(self, task_id: str) -> int | None:
        """Which server has a task's lease, if one has."""
        rows = self._postgres.execute(
            "SELECT owner FROM task_lease WHERE task_id = %s", task_id, database=self._database
        )
        addresses = [address_of(ports["port"]) for ports in self._all]
        return addresses.index(rows[0][0]) if rows and rows[0][0] in addresses else None

    def holder_of(self, task_id: str) -> int:
        """The same, waited for."""
        found: list[int] = []

        def held() -> bool:
            found[:] = [number for number in [self.holder(task_id)] if number is not None]
            return bool(found)

        until(held, f"a server has {task_id}")
        return found[0]

    def ending(self, end: Callable[[], None]) -> None:
        """Calls `end` when the servers are ended."""
        self._programs.callback(end)

    def kill(self, number: int) -> None:
        """Ends a server with SIGKILL."""
        self._servers[number].end()

    def pause(self, number: int) -> None:
        """Lets a server stand still."""
        os.kill(self._servers[number].pid, signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """Lets a server that stands still go on."""
        os.kill(self._servers[number].pid, signal.SIGCONT)

    def close(self) -> None:
        self._balancer.close()
        for program in self._servers.values():
            program.end()
        super().close()
