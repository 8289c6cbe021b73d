"""Secure aggregation: the server learns the sum of the clients' vectors, and nothing else of them.

Two state machines, `SecAggClient` and `SecAggServer`, take messages and return effects; whoever
drives them owns network, disk, clock and threads. `docs/secure-aggregation.md` says what is
protected against whom, and shows a driver. `run_session` drives a whole session in one process:

>>> import numpy as np
>>> from fractions import Fraction
>>> updates = np.array([[3, -1], [4, 0], [-5, 2], [9, 9], [1, 1]])
>>> result = run_session(updates, delta=Fraction(1, 5), dropouts={3: LostAt.UPLOAD})
>>> result.totals[0], result.survivors
(array([3, 2]), (0, 1, 2, 4))
"""

from fedcore.secagg.client import SecAggClient
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Effect, Erase, Fail, NeedInput, Persist, Send
from fedcore.secagg.identity import Certificate, CertificateAuthority, Identity, TrustStore
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.messages import Message, UploadChunk, UploadTrailer, decode, encode
from fedcore.secagg.packing import Block, IntegerSource, Layout
from fedcore.secagg.params import LARGEST_SESSION, Parameters, Profile, parameters
from fedcore.secagg.policy import BeaconVerifier, Policy
from fedcore.secagg.prg import Prg
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.session import SessionResult, default_layout, run_session, shards
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import UnmaskPlan, accumulate, new_accumulator, total_of, unmask

__all__ = [
    "LARGEST_SESSION",
    "BeaconVerifier",
    "Block",
    "Certificate",
    "CertificateAuthority",
    "Effect",
    "Erase",
    "Fail",
    "Identity",
    "IntegerSource",
    "Layout",
    "LostAt",
    "Message",
    "NeedInput",
    "Parameters",
    "Persist",
    "Policy",
    "Prg",
    "Profile",
    "SecAggClient",
    "SecAggServer",
    "Send",
    "SessionConfig",
    "SessionResult",
    "Stage",
    "TrustStore",
    "UnmaskPlan",
    "UploadChunk",
    "UploadTrailer",
    "accumulate",
    "decode",
    "default_layout",
    "encode",
    "new_accumulator",
    "parameters",
    "run_session",
    "shards",
    "total_of",
    "unmask",
]
