"""The client is sovereign: the server proposes a session, this says what is accepted at least."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from fedcore.errors import PolicyError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.params import Profile
from fedcore.secagg.prg import Prg

__all__ = ["BeaconVerifier", "Policy"]

BeaconVerifier: TypeAlias = Callable[[str, bytes, bytes], bool]


@dataclass(frozen=True)
class Policy:
    """The weakest session that a client takes part in; nothing that a server sends can lower it.

    `roots`: the public keys of the registrars whose certificates count; `revoked`: ids that do not,
    whatever their certificate says. `smallest_cohort`, `profile`, `gamma_floor` and `sigma_floor`
    bound the protection from below, `delta_ceiling` the drop-outs that a server may claim.
    `clipping_ceiling` and `noise_floor` ask for a declared clipping norm and noise multiplier;
    infinite and 0 ask for none. `slot_bits` are the widths accepted, smallest and largest.
    `attempts`: at how many sessions of one round the client may give a vector. `tasks` and
    `models`: the digests of those it works on, None for any. `beacon(name, pulse, roster)`:
    whether the pulse is that beacon's, was issued after the roster with that digest was published,
    and no other roster of the task's round was published for it; None: no beacon is trusted.
    """

    roots: tuple[bytes, ...]
    revoked: frozenset[bytes] = frozenset()
    smallest_cohort: int = 3
    profile: Profile = Profile.MALICIOUS
    gamma_floor: Fraction = Fraction(1, 10)
    sigma_floor: int = 40
    delta_ceiling: Fraction = Fraction(1, 3)
    prgs: frozenset[Prg] = frozenset(Prg)
    slot_bits: tuple[int, int] = (2, 64)
    wrapping_slots: bool = True
    largest_upload: int = 2**30
    clipping_ceiling: float = math.inf
    noise_floor: float = 0.0
    attempts: int = 1
    tasks: frozenset[bytes] | None = None
    models: frozenset[bytes] | None = None
    beacon: BeaconVerifier | None = None

    def check(self, config: SessionConfig, clients: int) -> None:
        """Raises: PolicyError, naming the first term that a session of `clients` would break."""
        widths = [block.slot_bits for block in config.layout.blocks]
        clipped = 0 < config.clipping_norm <= self.clipping_ceiling
        known_beacon = not config.beacon or self.beacon is not None
        for kept, what, wanted in (
            (clients >= self.smallest_cohort, f"{clients} clients", self.smallest_cohort),
            (config.profile >= self.profile, config.profile.name, self.profile.name),
            (config.gamma >= self.gamma_floor, f"gamma {config.gamma}", self.gamma_floor),
            (config.sigma >= self.sigma_floor, f"sigma {config.sigma}", self.sigma_floor),
            (config.delta <= self.delta_ceiling, f"delta {config.delta}", self.delta_ceiling),
            (config.prg in self.prgs, config.prg.name, sorted(prg.name for prg in self.prgs)),
            (min(widths) >= self.slot_bits[0], f"slots of {min(widths)} bits", self.slot_bits),
            (max(widths) <= self.slot_bits[1], f"slots of {max(widths)} bits", self.slot_bits),
            (
                self.wrapping_slots or not any(block.wraps for block in config.layout.blocks),
                "slots that may wrap",
                "none",
            ),
            (
                config.layout.upload_bytes <= self.largest_upload,
                f"an upload of {config.layout.upload_bytes} bytes",
                self.largest_upload,
            ),
            (
                math.isinf(self.clipping_ceiling) or clipped,
                f"clipping norm {config.clipping_norm}",
                self.clipping_ceiling,
            ),
            (
                config.noise_multiplier >= self.noise_floor,
                f"noise multiplier {config.noise_multiplier}",
                self.noise_floor,
            ),
            (
                self.tasks is None or config.task in self.tasks,
                f"the task {config.task.hex()}",
                "its list of tasks",
            ),
            (known_beacon, f"beacon {config.beacon!r}", "no beacon"),
        ):
            if not kept:
                raise PolicyError(
                    f"the session proposes {what}",
                    why=f"this client's policy stops at {wanted}",
                    fix="propose a session within the policy, or let the device's owner change it",
                    stage="R1",
                )

    def check_model(self, model_digest: bytes) -> None:
        """Raises: PolicyError if the client does not train the model with this digest."""
        if self.models is not None and model_digest not in self.models:
            raise PolicyError(
                "the session trains a model that is not allowed here",
                why=f"the digest {model_digest.hex()} is not in the policy's list",
                fix="send an allowed model, or let the device's owner add this one",
                stage="R2",
            )
