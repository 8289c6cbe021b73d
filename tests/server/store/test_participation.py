"""Contract: a client's request, its part, its update and its report each count once."""

from __future__ import annotations

import asyncio

import pytest

from fedcore.errors import ConflictError, LeaseLostError, NotFoundError, PhaseError
from fedserver.store.records import (
    AssignmentReport,
    AssignmentState,
    AuditEntry,
    RoundRef,
    UploadState,
)

REQUEST = b"q" * 16


@pytest.fixture
async def ref(world) -> RoundRef:
    await world.clients(4)
    return await world.round(await world.task())


async def ask(world, number: int, request_id: bytes = REQUEST, *, wanted: str = ""):
    return await world.store.check_in(
        world.client_id(number),
        request_id,
        wanted=wanted,
        task_id="task-1",
        offer={"programs": ["local"]},
        sdk_version="1.1",
    )


async def test_a_check_in_waits_until_it_is_answered_and_repeats_give_the_answer(
    world, ref
) -> None:
    first = await ask(world, 1)
    assert (first.assignment_id, first.retry, first.offer) == (b"", None, {"programs": ["local"]})
    world.clock.now += 10
    assert await ask(world, 1) == first
    await ask(world, 2)
    assert [found.client_id for found in await world.store.waiting("task-1")] == [
        world.client_id(1),
        world.client_id(2),
    ]
    refused = await world.store.refuse_check_in(world.client_id(2), REQUEST, (100, 200))
    assert refused.retry == (100, 200)
    chosen = world.assignment(ref, world.client_id(1), request_id=REQUEST)
    await world.go(ref, "COLLECTING", assignments=(chosen,))
    assert await world.store.waiting("task-1") == ()
    assert (await ask(world, 1)).assignment_id == chosen.assignment_id
    assert (await ask(world, 2)).retry == (100, 200)
    assert (await world.store.client(world.client_id(1))).sdk_version == "1.1"


async def test_an_answer_is_never_replaced_by_another(world, ref) -> None:
    await ask(world, 1)
    await world.store.refuse_check_in(world.client_id(1), REQUEST, (1, 2))
    again = await world.store.refuse_check_in(world.client_id(1), REQUEST, (3, 4))
    assert again.retry == (1, 2)
    with pytest.raises(NotFoundError):
        await world.store.refuse_check_in(world.client_id(1), b"other", (1, 2))


async def test_one_check_in_that_does_not_wait_costs_nobody_the_round(world, ref) -> None:
    for number in range(3):
        await ask(world, number)
    await world.store.refuse_check_in(world.client_id(1), REQUEST, (1, 2))
    parts = [
        world.assignment(ref, world.client_id(number), request_id=request)
        for number, request in ((0, REQUEST), (1, REQUEST), (2, b"never asked"))
    ]
    await world.go(ref, "COLLECTING", assignments=parts)
    found = {part.client_id: part.assignment_id for part in await world.store.assignments(ref)}
    assert found == {part.client_id: part.assignment_id for part in parts}
    assert (await ask(world, 0)).assignment_id == parts[0].assignment_id
    answered = await ask(world, 1)
    assert (answered.retry, answered.assignment_id) == ((1, 2), b"")


async def test_a_client_has_one_part_in_an_attempt(world, ref) -> None:
    twice = [world.assignment(ref, world.client_id(1)) for _ in range(2)]
    with pytest.raises(ConflictError):
        await world.go(ref, "COLLECTING", assignments=twice)
    assert (await world.store.round(ref)).phase == "SELECTING"


async def test_of_a_client_the_last_eight_requests_are_remembered(world, ref) -> None:
    await ask(world, 2)
    for number in range(9):
        await ask(world, 1, bytes([number]) * 16)
        await world.store.refuse_check_in(world.client_id(1), bytes([number]) * 16, (1, 2 + number))
        world.clock.now += 1
    assert (await ask(world, 1, bytes([1]) * 16)).retry == (1, 3)
    assert (await ask(world, 1, bytes(16))).retry is None  # asked anew, hence the second forgotten
    assert (await ask(world, 1, bytes([8]) * 16)).retry == (1, 10)
    assert (await ask(world, 1, bytes([2]) * 16)).retry == (1, 4)
    assert (await ask(world, 1, bytes([1]) * 16)).retry is None
    waiting = [found.client_id for found in await world.store.waiting("task-1")]
    assert world.client_id(2) in waiting


async def test_of_requests_of_one_moment_the_newest_is_remembered(world, ref) -> None:
    for number in reversed(range(20)):
        await ask(world, 1, bytes([number]) * 16)
        await world.store.refuse_check_in(world.client_id(1), bytes([number]) * 16, (1, 2 + number))
    assert (await ask(world, 1, bytes(16))).retry == (1, 2)


async def test_a_request_id_asks_for_one_task(world, ref) -> None:
    await ask(world, 1, wanted="task-1")
    with pytest.raises(ConflictError):
        await ask(world, 1, wanted="task-2")
    with pytest.raises(NotFoundError):
        await ask(world, 99)


async def test_the_first_end_of_an_assignment_stays(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    assert (await world.store.assignment(part)).state == AssignmentState.ACTIVE
    ended = await world.store.end_assignment(part, AssignmentState.FAILED, failure=4, reason="nan")
    assert (ended.state, ended.failure, ended.reason) == (AssignmentState.FAILED, 4, "nan")
    again = await world.store.end_assignment(part, AssignmentState.COMPLETED)
    assert again == ended == await world.store.assignment(part)
    assert await world.store.assignment(b"none") is None
    with pytest.raises(NotFoundError):
        await world.store.end_assignment(b"none", AssignmentState.FAILED)


async def test_a_report_counts_once_even_after_the_end(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.end_assignment(part, AssignmentState.DROPPED)
    report = AssignmentReport(bytes_up=10, bytes_down=20, energy_j=1.5, energy_measured=True)
    assert (await world.store.report(part, report)).report == report
    assert (await world.store.report(part, report)).report == report
    with pytest.raises(ConflictError):
        await world.store.report(part, AssignmentReport(bytes_up=11))
    with pytest.raises(NotFoundError):
        await world.store.report(b"none", report)


async def test_ending_all_leaves_those_that_ended_before(world, ref) -> None:
    parts = [world.assignment(ref, world.client_id(number)) for number in range(3)]
    await world.go(ref, "COLLECTING", assignments=parts)
    await world.store.end_assignment(parts[0].assignment_id, AssignmentState.FAILED)
    await world.go(ref, "ABANDONED", end_assignments=AssignmentState.CANCELLED)
    states = [part.state for part in await world.store.assignments(ref)]
    assert states == [AssignmentState.FAILED] + [AssignmentState.CANCELLED] * 2


async def test_an_assignment_has_one_upload(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    begun = await world.store.begin_upload(part, b"upload-1", size=100, header=b"h")
    assert (begun.committed, begun.state, begun.ref) == (0, UploadState.OPEN, ref)
    await world.store.committed(b"upload-1", 60)
    await world.store.committed(b"upload-1", 40)
    again = await world.store.begin_upload(part, b"upload-2", size=100, header=b"h")
    assert (again.upload_id, again.committed) == (b"upload-1", 60)
    for other in ({"size": 101, "header": b"h"}, {"size": 100, "header": b"i"}):
        with pytest.raises(ConflictError):
            await world.store.begin_upload(part, b"upload-3", **other)
    with pytest.raises(NotFoundError):
        await world.store.begin_upload(b"none", b"upload-4", size=1)
    with pytest.raises(NotFoundError):
        await world.store.committed(b"upload-4", 1)
    assert await world.store.upload(b"upload-2") is None


async def test_an_upload_that_comes_after_the_end_is_late_and_not_another_one(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.begin_upload(part, b"upload-1", size=100, header=b"h")
    await world.go(ref, "ABANDONED", end_assignments=AssignmentState.CANCELLED)
    for scrub in (False, True):
        if scrub:
            await world.store.scrub_round(ref)
        for again in ({"size": 100, "header": b"h"}, {"size": 101, "header": b"h"}):
            with pytest.raises(PhaseError):
                await world.store.begin_upload(part, b"upload-2", **again)


async def test_a_seal_is_acknowledged_again_and_another_digest_is_refused_and_audited(
    world, ref
) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.begin_upload(part, b"u", size=100)
    audit = AuditEntry("client:1", "upload.seal", str(ref))
    assert (await world.store.round(ref)).bytes_up == 0
    sealed = await world.store.seal_upload(
        b"u", world.digest("a"), session={"upload/1": b"header"}, erase=["x"], audit=audit
    )
    # Known when the round ends, while a client's report may come later.
    assert (await world.store.round(ref)).bytes_up == 100
    assert (sealed.state, sealed.committed) == (UploadState.SEALED, 100)
    entries = len(await world.store.audit_entries())
    again = await world.store.seal_upload(b"u", world.digest("a"), session={"upload/1": b"no"})
    assert again == sealed
    assert await world.store.session(ref) == {"upload/1": b"header"}
    assert len(await world.store.audit_entries()) == entries
    with pytest.raises(ConflictError):
        await world.store.seal_upload(b"u", world.digest("b"))
    last = (await world.store.audit_entries())[-1].entry
    assert last.decision.startswith("refused")
    assert await world.store.upload(b"u") == sealed
    assert (await world.store.round(ref)).uploaded == 1
    assert await world.store.uploads(ref, sealed_only=True) == (sealed,)
    with pytest.raises(NotFoundError):
        await world.store.seal_upload(b"none", world.digest("a"))


async def test_of_two_digests_that_come_at_once_one_is_sealed(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.begin_upload(part, b"u", size=100)
    seals = [world.store.seal_upload(b"u", world.digest(name)) for name in "ababab"]
    results = await asyncio.gather(*seals, return_exceptions=True)
    assert [isinstance(result, ConflictError) for result in results].count(True) == 3
    assert {result.sha256 for result in results if not isinstance(result, Exception)} == {
        (await world.store.upload(b"u")).sha256
    }


async def test_under_a_lease_that_was_lost_nothing_is_acknowledged(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.begin_upload(part, b"u", size=100)
    stale = world.held
    world.lease = await world.store.acquire_lease("task-1", "driver", 60_000)
    with pytest.raises(LeaseLostError):
        await world.store.seal_upload(b"u", world.digest("a"), lease_token=stale)
    assert (await world.store.upload(b"u")).state == UploadState.OPEN
    await world.store.seal_upload(b"u", world.digest("a"), lease_token=world.held)
    with pytest.raises(LeaseLostError):  # also of what is acknowledged: it is in no memory of his
        await world.store.seal_upload(b"u", world.digest("a"), lease_token=stale)


async def test_nothing_is_acknowledged_once_the_round_has_gone_on(world, ref) -> None:
    part = await world.part(ref, world.client_id(1))
    await world.store.begin_upload(part, b"u", size=100)
    await world.go(ref, "AGGREGATING")
    with pytest.raises(PhaseError):
        await world.store.seal_upload(b"u", world.digest("a"))
    assert (await world.store.upload(b"u")).state == UploadState.OPEN
    await world.go(ref, "ABANDONED", end_assignments=AssignmentState.CANCELLED)
    with pytest.raises(PhaseError):
        await world.store.seal_upload(b"u", world.digest("a"))


async def test_a_client_that_was_dropped_begins_no_upload_and_finds_the_one_it_began(
    world, ref
) -> None:
    parts = [world.assignment(ref, world.client_id(number)) for number in (1, 2)]
    await world.go(ref, "COLLECTING", assignments=parts)
    first, second = (part.assignment_id for part in parts)
    begun = await world.store.begin_upload(first, b"u", size=1)
    for part in (first, second):
        await world.store.end_assignment(part, AssignmentState.DROPPED)
    assert await world.store.begin_upload(first, b"v", size=1) == begun
    with pytest.raises(PhaseError):
        await world.store.begin_upload(second, b"w", size=1)


async def test_scrubbing_gives_all_uploads_and_keeps_the_assignments(world, ref) -> None:
    parts = [world.assignment(ref, world.client_id(number)) for number in (1, 2)]
    await world.go(ref, "COLLECTING", assignments=parts)
    for number, part in enumerate(parts):
        await world.store.begin_upload(part.assignment_id, bytes([number]), size=1, header=b"h")
    await world.store.seal_upload(b"\0", world.digest("a"))
    await world.go(ref, "ABANDONED", end_assignments=AssignmentState.CANCELLED)
    assert await world.store.scrub_round(ref) == (b"\0", b"\1")
    assert await world.store.scrub_round(ref) == (b"\0", b"\1")
    states = [(upload.state, upload.header) for upload in await world.store.uploads(ref)]
    assert states == [(UploadState.CONSUMED, b""), (UploadState.ABORTED, b"")]
    assert len(await world.store.assignments(ref)) == 2
    assert (await world.store.round(ref)).uploaded == 1
