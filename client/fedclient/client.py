"""The client of a federation, in ten lines: join once, open ever after, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fedclient.policy import Policy
from fedclient.progress import Progress, Summary

if TYPE_CHECKING:
    from fedcore.data import Dataset
    from fedcore.federated.programs import Program

__all__ = ["Client"]


class Client:
    """One device's membership in a federation, kept in a folder of its own.

    Made by `join` or `open`; one process at a time. Close it, or use it as a context manager.
    """

    @classmethod
    def join(
        cls,
        join_string: str,
        *,
        directory: str | Path,
        name: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> Self:
        """Enrols this device with the token of a join string, and opens the folder.

        `name`: what the owner calls the device; it names the streams of random numbers of its
        training, so that a simulation can repeat them. `attributes`: what a token may ask for.
        Raises: JoinStringError, ConnectError, TokenError, ClientStateError (a member already).
        """
        raise NotImplementedError

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """The member whose folder this is. Raises: ClientStateError if it is none, or in use."""
        raise NotImplementedError

    def run(
        self,
        *,
        datasets: Mapping[str, Dataset],
        programs: Mapping[str, Program] | None = None,
        policy: Policy | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        rounds: int | None = None,
    ) -> list[Summary]:
        """Takes part until `rounds` assignments have ended, or until `stop`; for ever by default.

        `datasets`: by the names under which tasks ask for them. `policy`: what the owner allows,
        by default `Policy()`. Without a server it waits and tries again.
        Raises: ClientCertificateError, NotAuthorisedError, ClientStateError, UntrustedServerError:
        what does not pass by itself.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Lets `run` return soon, from another thread or a signal's handler; training stops too.

        An open assignment is gone on with by the next `run`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Closes the folder and the connection."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()
