"""The mode "exact": sums that no single update can be read from, by the machines of a deployment.

They are the very state machines that devices and servers run, with every message encoded by the one
and decoded by the other, all masks laid on and taken off again. What differs from a deployment: one
process holds everybody's secrets, nothing is written to a disk, for nothing crashes, and clients
share one store of verified signatures. So of the many clients that check the same signature the
first one does, and the others look it up; nothing that anybody would refuse is accepted for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Final

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedcore.secagg import LostAt, Profile
from fedcore.secagg.loopback import check_count
from fedsim.modes.secure_parties import Parties
from fedsim.modes.secure_session import BlocksOf, SecureSession, SecureTotal

__all__ = ["SecureSum"]

_LAST_SILENCE: Final[Mapping[Phase, LostAt]] = {
    Phase.SHARES: LostAt.SHARES,
    Phase.COLLECTING: LostAt.UPLOADING,
    Phase.CONFIRMING: LostAt.CONFIRMATION,
    Phase.UNMASKING: LostAt.ANSWER,
}


class SecureSum:
    """Sessions of one task and one population; `names`: of all its clients, by their places.

    `task`: resolved. `threads`: how many clients mask at a time; what comes out does not depend on
    it. `entropy`: a seam for tests. Raises: TaskError for a task without secure aggregation;
    ArgumentError unless there is a thread; EntropyError.
    """

    def __init__(
        self,
        task: Task,
        names: Sequence[str],
        *,
        threads: int = 1,
        entropy: Entropy | None = None,
    ) -> None:
        check_count("threads", threads, 1)
        self._config, self._threads = task.session_config(), threads
        self._entropy = entropy or SystemEntropy()
        self._parties = Parties(task, self._config, names, entropy=self._entropy)

    def session(
        self,
        blocks_of: BlocksOf,
        *,
        round: int,
        attempt: int,
        model_digest: bytes,
        cut_off: Set[int] = frozenset(),
    ) -> SecureSession:
        """The session of one attempt, for a clock to close its phases: see `SecureSession`.

        `model_digest`: of the model that clients are sent, 32 bytes. Raises: ParameterError.
        """
        return SecureSession(
            self._parties,
            self._config,
            blocks_of,
            round=round,
            attempt=attempt,
            model_digest=model_digest,
            cut_off=cut_off,
            threads=self._threads,
            entropy=self._entropy,
        )

    def sum(
        self,
        blocks_of: BlocksOf,
        roster: Set[int],
        silent_from: Mapping[int, LostAt],
        *,
        round: int,
        attempt: int,
        model_digest: bytes,
    ) -> SecureTotal:
        """A whole session of these clients, with those lost that an `Attempt` of the clock names.

        `blocks_of`: see `SecureSession`; it is also asked of who is lost at UPLOADING.
        Raises: AbortError or another SecAggError with which the session ends.
        """
        begun = {place for place, at in silent_from.items() if at is LostAt.UPLOADING}
        session = self.session(
            blocks_of, round=round, attempt=attempt, model_digest=model_digest, cut_off=begun
        )
        members = survivors = session.close(Phase.KEYS, roster)
        for phase, silence in _LAST_SILENCE.items():
            if phase is Phase.CONFIRMING and self._config.profile is not Profile.MALICIOUS:
                continue
            there = {place for place in members if silent_from.get(place, silence + 1) > silence}
            members = session.close(phase, there)
            if phase is Phase.COLLECTING:
                survivors = members
        session.release(survivors)
        return session.total
