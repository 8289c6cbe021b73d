"""Audits: what an auditor, or an attacker, can find out about a run, held against what it claims.

Each takes plain arrays and returns a `Finding`, which is figures and a `Verdict`. `noise_fit`
tests the noise of a round without clients; `replay` runs a round again for data that differ in one
unit, and takes a function that runs it; `canary_fit` and `one_run` measure epsilon with clients
that nobody is; `membership` and `inversion` are attacks that must fail.

>>> import numpy as np
>>> from fractions import Fraction
>>> too_little = np.rint(np.random.default_rng(0).normal(scale=90, size=10_000)).astype(int)
>>> print(noise_fit(too_little, Fraction(100**2)).verdict)
failed: the variance is 0.8... times the promised one, where chance allows 0.9434 to 1.057; ...
"""

from fedcore.privacy.audit.canaries import Canaries, CanaryFit, canary_fit
from fedcore.privacy.audit.inversion import Inversion, inversion
from fedcore.privacy.audit.membership import Membership, lira_scores, membership
from fedcore.privacy.audit.noise_fit import NoiseFit, noise_fit
from fedcore.privacy.audit.one_run import (
    OneRun,
    epsilon_lower_bound,
    guessing_p_value,
    one_run,
)
from fedcore.privacy.audit.replay import Replay, Round, Trace, hostile_updates, replay
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict

__all__ = [
    "Canaries",
    "CanaryFit",
    "Finding",
    "Inversion",
    "Membership",
    "NoiseFit",
    "OneRun",
    "Outcome",
    "Replay",
    "Round",
    "Trace",
    "Verdict",
    "canary_fit",
    "epsilon_lower_bound",
    "guessing_p_value",
    "hostile_updates",
    "inversion",
    "lira_scores",
    "membership",
    "noise_fit",
    "one_run",
    "replay",
]
