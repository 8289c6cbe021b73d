"""The chain shows every edit, hole and cut, as far as a signed head reaches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from fedcore.errors import AuditError
from fedserver.store.audit import (
    EMPTY,
    canonical,
    chained,
    check_head,
    read_head,
    sign_head,
    verify,
)
from fedserver.store.records import AuditEntry, AuditHead, AuditRecord

SERVER = bytes(16)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
entries = st.builds(AuditEntry, texts, texts, texts, texts, st.binary(max_size=16))


def chain_of(found: list[AuditEntry]) -> list[AuditRecord]:
    records, head = [], EMPTY
    for at_ms, entry in enumerate(found):
        records.append(chained(head, entry, at_ms=at_ms))
        head = AuditHead(records[-1].sequence, records[-1].hash)
    return records


@given(st.lists(entries, max_size=8), st.integers(0, 8))
def test_a_chain_verifies_whole_and_from_any_point_of_it(
    found: list[AuditEntry], point: int
) -> None:
    records = chain_of(found)
    head = verify(records)
    assert head.sequence == len(found)
    assert verify(records[point:], after=verify(records[:point])) == head


@given(st.lists(entries, min_size=1, max_size=6), st.data())
def test_any_change_of_any_entry_shows(found: list[AuditEntry], data: st.DataObject) -> None:
    records = chain_of(found)
    place = data.draw(st.integers(0, len(records) - 1))
    changed = data.draw(
        st.sampled_from(["actor", "action", "object", "decision", "request_id", "at_ms", "hash"])
    )
    record = records[place]
    if changed == "at_ms":
        records[place] = replace(record, at_ms=record.at_ms + 1)
    elif changed == "hash":
        records[place] = replace(record, hash=bytes(32))
    else:
        longer = getattr(record.entry, changed) + (b"x" if changed == "request_id" else "x")
        records[place] = replace(record, entry=replace(record.entry, **{changed: longer}))
    with pytest.raises(AuditError):
        verify(records)


@given(st.lists(entries, min_size=2, max_size=6), st.data())
def test_an_entry_taken_out_doubled_or_moved_shows(
    found: list[AuditEntry], data: st.DataObject
) -> None:
    records = chain_of(found)
    place = data.draw(st.integers(0, len(records) - 2))  # the last one needs a signed head
    what = data.draw(st.sampled_from(["out", "double", "swap"]))
    if what == "out":
        del records[place]
    elif what == "double":
        records.insert(place, records[place])
    else:
        records[place : place + 2] = records[place : place + 2][::-1]
    with pytest.raises(AuditError):
        verify(records)


@given(st.lists(entries, min_size=2, max_size=6), st.data())
def test_an_entry_written_anew_with_hashes_that_fit_shows_at_the_next(
    found: list[AuditEntry], data: st.DataObject
) -> None:
    records = chain_of(found)
    place = data.draw(st.integers(0, len(records) - 2))
    forged = replace(records[place].entry, actor=records[place].entry.actor + "x")
    before = verify(records[:place])
    records[place] = chained(before, forged, at_ms=records[place].at_ms)
    records[place + 1] = replace(records[place + 1], prev_hash=records[place].hash)
    with pytest.raises(AuditError):
        verify(records)


def test_a_signed_head_is_of_one_key_and_one_server() -> None:
    signer = Ed25519PrivateKey.generate()
    head = AuditHead(7, bytes([7]) * 32)
    signed = sign_head(head, SERVER, signer)
    assert read_head(signed, SERVER, signer.public_key()) == head
    with pytest.raises(AuditError, match="another server"):
        read_head(signed, b"x" * 16, signer.public_key())
    with pytest.raises(AuditError, match="signature"):
        read_head(signed, SERVER, Ed25519PrivateKey.generate().public_key())
    for damaged in (signed[:-1], signed + b"x", b""):
        with pytest.raises(AuditError):
            read_head(damaged, SERVER, signer.public_key())
    for place in range(len(signed)):
        changed = bytearray(signed)
        changed[place] ^= 1
        with pytest.raises(AuditError):
            read_head(bytes(changed), SERVER, signer.public_key())


def test_a_log_that_was_cut_or_written_anew_is_behind_its_signed_head() -> None:
    records = chain_of([AuditEntry("a", "b", str(n)) for n in range(5)])
    others = chain_of([AuditEntry("a", "b", str(n)) for n in (0, 1, 2, 9, 4)])
    signed = AuditHead(4, records[3].hash)
    check_head(signed, verify(records), records[3])
    check_head(signed, verify(records[:4]), records[3])
    check_head(EMPTY, verify(records), None)
    with pytest.raises(AuditError, match="ends at entry 3"):
        check_head(signed, verify(records[:3]), None)
    with pytest.raises(AuditError, match="another than was signed"):
        check_head(signed, verify(others), others[3])


def test_an_exported_entry_is_canonical_json_with_its_hashes() -> None:
    record = chained(EMPTY, AuditEntry("user:ada", "act", "é", "allowed", b"\1"), at_ms=5)
    fields = json.loads(canonical(record))
    assert fields["hash"] == record.hash.hex()
    assert fields["prev_hash"] == "00" * 32
    assert fields["object"] == "é"
    assert list(fields) == sorted(fields)


@pytest.mark.parametrize("table", ["audit_log", "round_event"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET actor = 'eve'"])
async def test_the_database_refuses_to_change_what_only_grows(
    world, table: str, statement: str
) -> None:
    await world.round(await world.task())
    with pytest.raises(Exception, match=f"{table} is append-only"):
        world.ground.execute(statement.format(table))
