"""A configuration has one encoding, that of the protocol's section 3, and nothing else decodes."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import MessageError, ParameterError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.params import LARGEST_EXPONENT, Profile
from fedcore.secagg.prg import Prg
from tests.secagg import reference as ref

PLAIN = SessionConfig(task=bytes(range(32)), layout=Layout((Block(5, 21, 1000),)))


@st.composite
def configurations(draw: st.DrawFn) -> SessionConfig:
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        bits = draw(st.integers(2, 64))
        limit = draw(st.integers(1, 2 ** (bits - 1) - 1))
        blocks.append(Block(draw(st.integers(1, 2**30)), bits, limit, wraps=draw(st.booleans())))
    share = st.fractions(0, 1, max_denominator=2**32 - 1).filter(lambda value: value < 1)
    positive = st.floats(0, 1e300).map(abs)
    return SessionConfig(
        task=draw(st.binary(min_size=32, max_size=32)),
        layout=Layout(tuple(blocks)),
        profile=draw(st.sampled_from(Profile)),
        prg=draw(st.sampled_from(Prg)),
        gamma=draw(share),
        delta=draw(share),
        sigma=draw(st.integers(1, LARGEST_EXPONENT)),
        eta=draw(st.integers(1, LARGEST_EXPONENT)),
        beacon=draw(st.text(st.characters(codec="ascii"), max_size=255)),
        clipping_norm=draw(positive),
        noise_multiplier=draw(positive),
    )


@given(configurations())
def test_a_configuration_survives_its_encoding_which_is_the_reference_s(
    config: SessionConfig,
) -> None:
    assert SessionConfig.decode(config.encoded) == config
    told = ref.Config(
        int(config.profile),
        int(config.prg),
        config.gamma,
        config.delta,
        config.sigma,
        config.eta,
        config.clipping_norm,
        config.noise_multiplier,
        config.task,
        config.beacon,
        [ref.Block(b.length, b.slot_bits, b.wraps, b.limit) for b in config.layout.blocks],
    )
    assert config.encoded == ref.config_bytes(told)
    assert config.digest == ref.config_digest(told)


@given(configurations(), st.data())
def test_what_decodes_encodes_to_the_same_bytes(config: SessionConfig, data: st.DataObject) -> None:
    changed = bytearray(config.encoded)
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    for candidate in (bytes(changed), bytes(changed[:cut]), bytes(changed) + b"\0"):
        try:
            found = SessionConfig.decode(candidate)
        except MessageError:
            continue
        assert found.encoded == candidate


@pytest.mark.parametrize("value", [-0.0, -1.0, math.nan, math.inf], ids=str)
@pytest.mark.parametrize("name", ["clipping_norm", "noise_multiplier"])
def test_a_declared_number_is_finite_and_has_no_sign(name: str, value: float) -> None:
    terms: dict[str, Any] = {name: value}
    with pytest.raises(ParameterError, match=name):
        SessionConfig(task=PLAIN.task, layout=PLAIN.layout, **terms)
    at = 24 if name == "clipping_norm" else 32
    assert PLAIN.encoded[at : at + 8] == bytes(8)
    with pytest.raises(MessageError):
        SessionConfig.decode(
            PLAIN.encoded[:at] + struct.pack("<d", value) + PLAIN.encoded[at + 8 :]
        )


@pytest.mark.parametrize(
    ("at", "changed"),
    [
        (0, b"\x02\x00"),  # version
        (2, b"\x02"),  # profile
        (3, b"\x02"),  # stream cipher
        (4, struct.pack("<II", 2, 20)),  # a fraction that is not in lowest terms
        (4, struct.pack("<II", 1, 0)),
        (4, struct.pack("<II", 1, 1)),
        (20, b"\x00\x00"),  # sigma
        (22, b"\xff\xff"),  # eta
        (-9, b"\x02"),  # wraps
        (-10, b"\x01"),  # slot bits
        (-8, bytes(8)),  # limit
        (-18, bytes(8)),  # length
        (-19, b"\x02"),  # blocks
    ],
)
def test_each_field_out_of_range_is_refused(at: int, changed: bytes) -> None:
    data = bytearray(PLAIN.encoded)
    at %= len(data)
    assert data[at : at + len(changed)] != changed
    data[at : at + len(changed)] = changed
    with pytest.raises(MessageError):
        SessionConfig.decode(bytes(data))


@pytest.mark.parametrize("name", ["sigma", "eta"])
@pytest.mark.parametrize("value", [0, LARGEST_EXPONENT + 1, 40.5, np.int64(40), True, "40"])
def test_a_security_level_is_a_whole_number_within_its_range(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=name):
        SessionConfig(task=PLAIN.task, layout=PLAIN.layout, **{name: value})


@pytest.mark.parametrize("name", ["gamma", "delta"])
@pytest.mark.parametrize(
    "value", [0.1, Fraction(-1, 10), Fraction(1), Fraction(1, 2**32), 1, -1, True, False, "0", None]
)
def test_a_fraction_is_exact_or_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=name) as refused:
        SessionConfig(task=PLAIN.task, layout=PLAIN.layout, **{name: value})
    assert f"{name}=Fraction(1, 5)" in refused.value.fix


def test_a_share_of_nobody_may_be_written_as_zero() -> None:
    terms: list[dict[str, Any]] = [
        {"gamma": 0, "delta": 0},
        {"gamma": Fraction(0), "delta": Fraction(0)},
    ]
    first, second = (SessionConfig(PLAIN.task, PLAIN.layout, **shares) for shares in terms)
    assert first == second == SessionConfig.decode(first.encoded)
    assert first.digest == second.digest
    assert first.parameters(5) == second.parameters(5)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("task", [bytes(31), bytes(33), "t" * 32, bytearray(32), None]),
        ("layout", [(Block(5, 21, 1000),), Block(5, 21, 1000), None]),
        ("profile", [1, 7, "MALICIOUS", None]),
        ("prg", [0, 7, "CHACHA20", None]),
        ("beacon", [b"drand", None, 5, "d" * 256, "dränd"]),
        ("clipping_norm", ["1", None, 1j, True, 10**400, Fraction(1, 2)]),
        ("noise_multiplier", ["1", None, 1j, True, 10**400, Fraction(1, 2)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_term_of_another_type_is_refused_at_once_by_its_name(name: str, wrong: list[Any]) -> None:
    for value in wrong:
        terms = {"task": PLAIN.task, "layout": PLAIN.layout, name: value}
        with pytest.raises(ParameterError, match=name) as refused:
            SessionConfig(**terms)
        assert refused.value.why and refused.value.fix


def test_a_number_of_clients_is_a_plain_int() -> None:
    for clients in (np.int64(10), 10.0, "10", None, True):
        with pytest.raises(ParameterError, match=re.escape(f"n = {clients!r} is not a plain int")):
            PLAIN.parameters(clients)  # type: ignore[arg-type]
