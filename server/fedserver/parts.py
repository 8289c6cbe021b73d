"""What a server is made of, as values that are handed to it ready made."""

from __future__ import annotations

from dataclasses import dataclass

from fedserver.audit_heads import AuditHeads
from fedserver.authority import Authority
from fedserver.authority_acts import AuthorityActs
from fedserver.federation.interface import Federation
from fedserver.metrics import Metrics
from fedserver.store.protocol import Store

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of.

    `audit`: its signed heads. `acts`: of the authority, which the audit log takes up. `database`:
    what kind of store it is, in a word.
    """

    store: Store
    authority: Authority
    federation: Federation
    metrics: Metrics
    audit: AuditHeads
    acts: AuthorityActs
    database: str = "sqlite"
