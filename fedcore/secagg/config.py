"""What all parties of a session agree on: its digest is bound into every mask and signature."""

from __future__ import annotations

import math
import reprlib
import struct
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from fedcore.errors import MessageError, ParameterError, SecAggError
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import (
    Parameters,
    Profile,
    parameters,
    require_exponents,
    require_profile,
    require_share,
)
from fedcore.secagg.prg import Prg
from fedcore.secagg.transcript import digest

__all__ = ["SessionConfig"]

_VERSION = 1
_HEAD = struct.Struct("<HBBIIIIHHdd32sB")
_BLOCK = struct.Struct("<QBBQ")


@dataclass(frozen=True)
class SessionConfig:
    """The terms of one secure aggregation.

    `task`: 32 bytes, the digest of the task. `layout`: the blocks of integers that each client
    sends. `gamma`: the share of the roster that may collude with the server; `delta`: the share
    that may be lost, each a Fraction or 0; privacy fails with probability 2^-sigma, availability
    with 2^-eta. `beacon`: the name of a public randomness beacon whose pulse seeds the ring, or "".
    `clipping_norm` and `noise_multiplier`: what the privacy layer does to each vector, 0 if nothing
    is declared; a client's policy may ask for them.

    Raises: ParameterError for a value out of range or of another type.
    """

    task: bytes
    layout: Layout
    profile: Profile = Profile.MALICIOUS
    prg: Prg = Prg.AES_128_CTR
    gamma: Fraction | int = Fraction(1, 10)
    delta: Fraction | int = Fraction(1, 10)
    sigma: int = 100
    eta: int = 30
    beacon: str = ""
    clipping_norm: float = 0.0
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.task, bytes) or len(self.task) != 32:
            raise _refused("task", self.task, "a digest, bytes of length 32")
        if not isinstance(self.layout, Layout):
            raise _refused("layout", self.layout, "a Layout")
        require_profile(self.profile)
        if not isinstance(self.prg, Prg):
            raise _refused("prg", self.prg, "Prg.AES_128_CTR or Prg.CHACHA20")
        for name in ("gamma", "delta"):
            share = getattr(self, name)
            require_share(name, share)
            if share.denominator >= 2**32:
                raise _refused(name, share, f"a share in 32-bit terms, like {name}=Fraction(1, 5)")
        require_exponents(self.sigma, self.eta)
        for name in ("clipping_norm", "noise_multiplier"):
            if not _is_magnitude(value := getattr(self, name)):
                raise _refused(name, value, "a finite number without a sign, 0 for none")
        if not isinstance(self.beacon, str) or len(self.beacon) > 255 or not self.beacon.isascii():
            raise _refused("beacon", self.beacon, "an ASCII name of at most 255 characters")

    def parameters(self, clients: int) -> Parameters:
        """Degree, threshold and the rest for a roster of so many clients.

        Raises: ParameterError if none fit; PackingError if the sum of so many could overflow.
        """
        found = parameters(
            clients,
            profile=self.profile,
            gamma=self.gamma,
            delta=self.delta,
            sigma=self.sigma,
            eta=self.eta,
            beacon=bool(self.beacon),
        )
        self.layout.check_budget(clients)
        return found

    @cached_property
    def encoded(self) -> bytes:
        """The one canonical encoding."""
        head = _HEAD.pack(
            _VERSION,
            self.profile,
            self.prg,
            *self.gamma.as_integer_ratio(),
            *self.delta.as_integer_ratio(),
            self.sigma,
            self.eta,
            self.clipping_norm,
            self.noise_multiplier,
            self.task,
            len(self.beacon),
        )
        blocks = [
            _BLOCK.pack(block.length, block.slot_bits, block.wraps, block.limit)
            for block in self.layout.blocks
        ]
        return head + self.beacon.encode("ascii") + bytes([len(blocks)]) + b"".join(blocks)

    @cached_property
    def digest(self) -> bytes:
        """The digest under which the configuration is bound into the session."""
        return digest("config", self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> SessionConfig:
        """The configuration that `data` encodes. Raises: MessageError if it is not canonical."""
        try:
            config = cls._parse(data)
        except (struct.error, ValueError, IndexError, ZeroDivisionError, SecAggError) as error:
            reason = error.what if isinstance(error, SecAggError) else str(error)
            raise _malformed(reason) from error
        if config.encoded != data:
            raise _malformed("it is not the canonical encoding of what it says")
        return config

    @classmethod
    def _parse(cls, data: bytes) -> SessionConfig:
        head = _HEAD.unpack_from(data)
        version, profile, prg, gamma, of_gamma, delta, of_delta, sigma, eta = head[:9]
        clipping_norm, noise_multiplier, task, name_length = head[9:]
        if version != _VERSION:
            raise ValueError(f"version {version} is not {_VERSION}")
        end = _HEAD.size + name_length
        beacon = data[_HEAD.size : end].decode("ascii")
        count, start = data[end], end + 1
        if len(data) != start + count * _BLOCK.size:
            raise ValueError(f"{len(data)} bytes do not hold {count} blocks")
        blocks = tuple(
            Block(length, slot_bits, limit, wraps=bool(wraps))
            for length, slot_bits, wraps, limit in _BLOCK.iter_unpack(data[start:])
        )
        return cls(
            task=task,
            layout=Layout(blocks),
            profile=Profile(profile),
            prg=Prg(prg),
            gamma=Fraction(gamma, of_gamma),
            delta=Fraction(delta, of_delta),
            sigma=sigma,
            eta=eta,
            beacon=beacon,
            clipping_norm=clipping_norm,
            noise_multiplier=noise_multiplier,
        )


def _is_magnitude(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, float | int):
        return False
    # The sign as well: −0.0 is not below 0, and would be a second encoding of 0.
    return 0 <= value <= sys.float_info.max and math.copysign(1, value) > 0


def _refused(name: str, found: object, wanted: str) -> ParameterError:
    return ParameterError(
        f"session configuration: {name} = {reprlib.repr(found)}",
        why="each term has one encoding, under which all parties agree on it",
        fix=f"pass {name} as {wanted}",
    )


def _malformed(reason: str) -> MessageError:
    return MessageError(
        "session configuration: the bytes are malformed",
        why=reason,
        fix="send what SessionConfig.encoded gives",
        stage="R1",
    )
