"""Sessions told honestly up to some point, from which a test goes on as it likes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from fedcore.secagg.config import SessionConfig
from fedcore.secagg.messages import (
    Confirmation,
    Shares,
    UnmaskAnswer,
)
from fedcore.secagg.params import Profile
from tests.secagg.adversary import CONFIG, Session, World, members

__all__ = ["ALL", "RING", "SEMI_HONEST", "confirmed", "finish", "uploaded"]

ALL = range(8)  # at n = 8: c = 1, d₀ = 2, u_min = 6, a quorum of 5, t = 4 of k = 7
SEMI_HONEST = replace(CONFIG, profile=Profile.SEMI_HONEST, sigma=40)
RING = replace(CONFIG, gamma=Fraction(1, 33), delta=Fraction(1, 5))  # n = 65: k = 28, v = 2


def uploaded(world: World, config: SessionConfig = CONFIG, **terms: Any) -> Session:
    """A session in which everyone has uploaded."""
    session = Session(world, config, **terms)
    session.deal()
    session.mask()
    return session


def confirmed(world: World, survivors: Iterable[int] = ALL, **terms: Any) -> Session:
    """A session in which everyone of `survivors` has confirmed them."""
    session = uploaded(world, **terms)
    session.known.survivors = members(session.n, survivors)
    session.confirm()
    return session


def finish(session: Session, survivors: Iterable[int] = ALL) -> None:
    """Show that the session still reaches its exact sum by honest messages."""
    survivors = list(survivors)
    session.deal(set(range(session.n)) - set(session.known.of(Shares)))
    if session.known.uploaders is None:
        session.known.uploaders = session.known.senders(Shares)
    session.mask(set(np.flatnonzero(session.known.uploaders).tolist()) - set(session.uploads))
    session.known.survivors = members(session.n, survivors)
    if session.config.profile is Profile.MALICIOUS:
        session.confirm(set(survivors) - set(session.known.of(Confirmation)))
    session.answer(set(survivors) - set(session.known.of(UnmaskAnswer)))
    session.assert_sum(survivors)
