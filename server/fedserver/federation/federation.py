"""All that a server's rounds are asked, in one object: `interface.Federation` for one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedcore.federated.payments import Accounts
from fedserver.federation.check_ins import CheckIns
from fedserver.federation.resources import Resources
from fedserver.federation.uploads import Uploads

if TYPE_CHECKING:
    from fedserver.federation.interface import Federation

__all__ = ["LocalFederation"]


class LocalFederation(CheckIns, Uploads):
    """The tasks that a server drives, and where the others are; options as of `Drivers`.

    `owner`: the same after every restart.
    """

    def __init__(
        self, resources: Resources, accounts: Accounts, *, owner: str, shared: bool = False
    ) -> None:
        super().__init__(resources, accounts, owner=owner, shared=shared)
        self._held, self._sizes = 0, {}


if TYPE_CHECKING:

    def _keeps_the_contract(federation: LocalFederation) -> Federation:
        return federation
