"""The rounds of a server: tasks carried out, clients told, updates taken, models released."""

from __future__ import annotations

from fedserver.federation.check_ins import CheckIns
from fedserver.federation.payments import Accounts
from fedserver.federation.resources import Resources
from fedserver.federation.uploads import Uploads

__all__ = ["Accounts", "LocalFederation", "Resources"]


class LocalFederation(CheckIns, Uploads):
    """All tasks of a server that is one process; it implements `interface.Federation`.

    `owner`: the name under which it holds leases, the same after every restart.
    """

    def __init__(self, resources: Resources, accounts: Accounts, *, owner: str) -> None:
        super().__init__(resources, accounts, owner=owner)
        self._held, self._owners, self._sizes = 0, {}, {}
