"""Each verb in text and in JSON, and what it orders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import DeviceTimeoutError, OverloadedError, TransferError
from fedcore.federated.task import Task
from fedcore.secagg.identity import verify_signature
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedcore.wire.joining import JoinString
from fedserver.admin.connection import Connection
from fedserver.admin.user import User
from fedserver.store.records import ClientState, TaskState
from fedserver.store.sqlite.store import SqliteStore

MODEL = hashlib.sha256(b"model").hexdigest()


def orders(federation: Any, name: str) -> list[Any]:
    return [values for called, values in federation.calls if called == name]


async def test_a_list_has_a_line_and_an_object_for_each_entry(fed: Any, canned: Any) -> None:
    await canned.world.client(client_id=b"c" * 16)
    profile = canned.profile()
    for words, shown, key in (
        (["task", "list"], "digits-1  RUNNING    0/5 rounds  eps 1.50/3.00", "task_id"),
        (["round", "list", "digits-1"], "round 4/5  attempt 1 PENDING  sel 0 ok 0 drop 2", "round"),
        (["model", "list", "digits-1"], f"{MODEL}  round 0     5 B", "model"),
        (["token", "clients"], "seen ", "client_id"),
    ):
        text = await fed(*words, profile=profile)
        assert text.code == 0 and shown in text.out, (words, text.err)
        assert len(text.out.splitlines()) == 1, words
        listed = await fed(*words, "--format", "json", profile=profile)
        assert len(listed.data) == 1 and key in listed.data[0], words
        line = await fed(*words, "--format", "jsonl", profile=profile)
        assert json.loads(line.out)["data"] == listed.data[0] or words[0] == "round", words


async def test_a_round_tells_what_it_waits_for_and_from_whom(fed: Any, canned: Any) -> None:
    profile = canned.profile("viewer")
    text = await fed("round", "show", "digits-1", profile=profile)
    assert text.code == 0, text.err
    assert "digits-1 round 4 attempt 1: PENDING since " in text.out
    assert f"\nwaits for uploads\n  {(b'c' * 16).hex()}\n" in text.out
    for place in ([], [4], [4, 1]):
        shown = await fed("round", "show", "digits-1", *place, "--format", "json", profile=profile)
        assert shown.data["waiting_for"] == "waits for uploads" and shown.data["round"] == 3
    for place in ([5], [4, 7]):
        absent = await fed("round", "show", "digits-1", *place, profile=profile)
        assert absent.code == 1 and "FED-2106" in absent.err


async def test_a_server_that_drains_says_so_where_a_user_would_wait(
    fed: Any, canned: Any, task_file: Path
) -> None:
    profile, words = canned.profile(), "the server is draining"
    submit, show = ("task", "submit", task_file), ("round", "show", "digits-1")
    for verb in (submit, show):
        found = await fed(*verb, profile=profile)
        assert found.code == 0 and words not in found.out + found.err
    await canned.world.server.drain()
    handed_in = await fed(*submit, profile=profile)
    assert handed_in.code == 0 and words in handed_in.err
    assert words in (await fed(*show, profile=profile)).out
    for verb in (submit, show):
        assert (await fed(*verb, "--format", "json", profile=profile)).data["draining"] is True


async def test_a_token_is_shown_once_and_lets_in_at_the_enrolment_port(
    fed: Any, canned: Any
) -> None:
    profile = canned.profile("operator")
    made = await fed(
        *("token", "create", "--uses", 10, "--lifetime", "24h", "--attribute", "site=berlin"),
        profile=profile,
    )
    assert made.code == 0, made.err
    assert made.out.count("\n") == 1
    joining = JoinString.parse(made.out.strip())
    assert joining.address == canned.world.addresses.enrolment
    assert "10 in all" in made.err and made.out.strip() not in made.err
    data = (await fed("token", "create", "--format", "json", profile=profile)).data
    assert data["uses"] == 1 and data["join_string"] != made.out.strip()


async def test_a_device_is_revoked_after_it_was_said_what_will_happen(
    fed: Any, canned: Any
) -> None:
    await canned.world.client(client_id=b"c" * 16)
    profile, client = canned.profile("operator"), (b"c" * 16).hex()
    verb = ("token", "revoke", client, "--reason", "stolen")
    dry = await fed(*verb, "--dry-run", profile=profile)
    assert dry.code == 0 and client in dry.out
    asked = await fed(*verb, profile=profile)
    assert asked.code == 4 and "for good" in asked.err and "--yes" in asked.err
    found = await canned.world.store.client(b"c" * 16)
    assert found.state is ClientState.ACTIVE
    done = await fed(*verb, "--yes", profile=profile)
    assert done.code == 0, done.err
    found = await canned.world.store.client(b"c" * 16)
    assert found.state is ClientState.REVOKED


async def test_a_task_is_cancelled_only_if_it_was_confirmed(fed: Any, canned: Any) -> None:
    profile = canned.profile("researcher")
    verb = ("task", "cancel", "digits-1", "--reason", "a mistake")
    dry = await fed(*verb, "--dry-run", "--format", "json", profile=profile)
    assert dry.code == 0 and dry.data["would_cancel"] == "digits-1"
    asked = await fed(*verb, profile=profile)
    assert asked.code == 4 and "ends for good after 0 of 5 rounds" in asked.err
    assert orders(canned.federation, "cancel") == []
    done = await fed(*verb, "--yes", profile=profile)
    assert done.code == 0 and done.out == "cancelled digits-1\n"
    assert [values[:2] for values in orders(canned.federation, "cancel")] == [
        ("digits-1", "a mistake")
    ]


async def test_an_order_whose_answer_is_lost_is_repeated_with_the_same_request_id(
    fed: Any, canned: Any
) -> None:
    failed: list[str] = []

    async def fail_first() -> None:
        name = canned.federation.calls[-1][0]
        if name == "cancel" and not failed:
            failed.append(name)
            raise OverloadedError("too much", why="for a test", retry=(1, 2))

    canned.federation.block = fail_first
    done = await fed(
        "task", "cancel", "digits-1", "--reason", "x", "--yes", profile=canned.profile()
    )
    assert done.code == 0, done.err
    first, second = (values[2] for values in orders(canned.federation, "cancel"))
    assert first.request_id == second.request_id and len(first.request_id) == 16


async def test_a_question_is_asked_again_when_the_server_says_when_it_has_time(
    fed: Any, canned: Any
) -> None:
    failed: list[str] = []

    async def fail_first() -> None:
        if not failed:
            failed.append(canned.federation.calls[-1][0])
            raise OverloadedError("too much", why="for a test", retry=(1, 2))

    canned.federation.block = fail_first
    shown = await fed("task", "show", "digits-1", profile=canned.profile())
    assert shown.code == 0, shown.err
    assert canned.federation.calls.count(canned.federation.calls[0]) >= 2 and failed


async def test_a_dry_run_hands_nothing_in(fed: Any, canned: Any, task_file: Path) -> None:
    dry = await fed("task", "submit", task_file, "--dry-run", "--format", "json")
    assert dry.code == 0, dry.err
    assert dry.data["task_id"] is None and dry.data["dimension"] == 15
    assert dry.data["cohort"] == {"selected": 5, "goal": 5, "minimum": 5}
    assert dry.data["secure_aggregation"]["clients"] == 5 and dry.data["privacy"] is None
    assert orders(canned.federation, "submit") == []
    text = await fed("task", "submit", task_file, "--dry-run")
    assert "n = 5, k = 4, t = " in text.out and "no" in text.out.splitlines()[-1]


async def test_a_submission_is_the_canonical_task_signed_by_its_author(
    fed: Any, canned: Any, task_file: Path
) -> None:
    profile = canned.profile("researcher")
    done = await fed("task", "submit", task_file, "-q", profile=profile)
    assert (done.code, done.out, done.err) == (0, "digits-1\n", "")
    ((submission, _once),) = orders(canned.federation, "submit")
    canonical = Task.from_toml(task_file).resolved().canonical
    assert submission.canonical == canonical and submission.model == b""
    covered = signed_bytes(canonical, method=TASK, place=Place())
    key = User.open(profile).profile.identity.public_key().public_bytes_raw()
    assert verify_signature(key, submission.signature, covered)


async def test_a_first_model_has_to_be_the_tasks(
    fed: Any, canned: Any, task_file: Path, tmp_path: Path
) -> None:
    from fedcore.federated.models import initial_theta
    from fedcore.federated.parameters import parameters_of
    from fedcore.model_format import encode_model

    task = Task.from_toml(task_file).resolved()
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    theta = initial_theta(task)
    right.write_bytes(b"".join(encode_model(theta, parameters_of(task), metadata={})))
    wrong.write_bytes(right.read_bytes()[:-4])
    profile = canned.profile("researcher")
    refused = await fed("task", "submit", task_file, "--model", wrong, profile=profile)
    assert refused.code == 4 and "FED-1202" in refused.err
    absent = await fed("task", "submit", task_file, "--model", tmp_path / "no", profile=profile)
    assert absent.code == 4 and "cannot be read" in absent.err
    assert orders(canned.federation, "submit") == []
    taken = await fed("task", "submit", task_file, "--model", right, profile=profile)
    assert taken.code == 0, taken.err
    assert orders(canned.federation, "submit")[0][0].model == right.read_bytes()


async def test_a_download_goes_on_where_it_was(fed: Any, canned: Any, tmp_path: Path) -> None:
    from fedserver.federation.interface import ModelChunk, ModelDescription

    blob = bytes(range(256)) * 4096 * 6 + b"end"
    digest, asked = hashlib.sha256(blob).hexdigest(), []
    broken = [True]

    async def model(caller: Any, found: bytes) -> ModelDescription:
        return ModelDescription(len(blob), "digits-1", 3, b"")

    async def model_chunk(caller: Any, found: bytes, *, offset: int, length: int) -> ModelChunk:
        asked.append(offset)
        if broken[0] and offset >= 2 << 20:
            raise TransferError("it breaks here", why="for a test")
        return ModelChunk(blob[offset : offset + length], len(blob))

    canned.federation.model, canned.federation.model_chunk = model, model_chunk
    out, profile = tmp_path / "m.safetensors", canned.profile("viewer")
    verb = ("model", "export", digest, "--out", out)
    first = await fed(*verb, profile=profile)
    assert first.code == 1 and not out.exists()
    broken[0] = False
    asked.clear()
    second = await fed(*verb, "--format", "json", profile=profile)
    assert second.code == 0, second.err
    assert min(asked) == 2 << 20 and out.read_bytes() == blob
    assert second.data == {"model": digest, "file": str(out), "bytes": len(blob)}
    asked.clear()
    again = await fed(*verb, profile=profile)
    assert again.code == 0 and asked == []
    assert list(Path.glob(tmp_path, ".*.part")) == []


async def test_a_model_that_nobody_trained_is_exported_by_its_digest_alone(
    fed: Any, canned: Any, tmp_path: Path
) -> None:
    out, profile = tmp_path / "m.safetensors", canned.profile("viewer")
    refused = await fed("model", "export", "digits-1", "--out", out, profile=profile)
    assert refused.code == 1 and not out.exists()
    assert "no round of digits-1 has made a model yet" in refused.err and MODEL in refused.err
    exported = await fed("model", "export", MODEL, "--out", out, profile=profile)
    assert exported.code == 0 and out.exists()


async def test_other_bytes_than_the_models_are_not_kept(
    fed: Any, canned: Any, tmp_path: Path
) -> None:
    out, profile = tmp_path / "m.safetensors", canned.profile("viewer")
    other = hashlib.sha256(b"another").hexdigest()
    refused = await fed("model", "export", other, "--out", out, profile=profile)
    assert refused.code == 1 and "FED-1802" in refused.err and not out.exists()
    assert list(Path.glob(tmp_path, ".*.part")) == []
    out.write_bytes(b"precious")
    kept = await fed("model", "export", MODEL, "--out", out, profile=profile)
    assert kept.code == 4 and out.read_bytes() == b"precious"


async def test_a_slow_server_is_a_timeout(
    fed: Any, canned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setitem(Connection.ask.__kwdefaults__, "timeout_s", 0.3)
    canned.federation.block = lambda: asyncio.sleep(1.5)
    late = await fed("task", "list", profile=canned.profile())
    assert late.code == 3 and DeviceTimeoutError.code in late.err


async def test_a_log_of_which_a_page_was_cut_is_refused_and_leaves_no_half_of_an_export(
    fed: Any, canned: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = canned.profile("auditor")
    for _ in range(3):
        await fed("token", "create", profile=canned.profile("operator"))
    whole = await fed("audit", "verify", "--format", "json", profile=profile)
    assert whole.code == 0 and whole.data["entries"] >= 3, whole.err
    read = SqliteStore.audit_entries

    async def without_the_second(self: Any, after: int, limit: int) -> Any:
        return [one for one in await read(self, after, limit) if one.sequence != 2]

    monkeypatch.setattr(SqliteStore, "audit_entries", without_the_second)
    cut = await fed("audit", "verify", profile=profile)
    assert cut.code == 1 and "goes from entry 1 to 3" in cut.err

    (folder := tmp_path / "exports").mkdir()
    half = await fed("audit", "export", "--out", folder / "log.jsonl", profile=profile)
    assert half.code == 1 and "goes from entry 1 to 3" in half.err and not [*folder.iterdir()]
    monkeypatch.undo()
    (taken := folder / "taken").write_text("mine")
    beside = await fed("audit", "export", "--out", taken, profile=profile)
    assert (beside.code, taken.read_text()) == (4, "mine"), beside.err


async def test_following_a_task_that_failed_ends_with_1_and_its_reason(
    fed: Any, canned: Any
) -> None:
    await canned.world.store.set_task_state("digits-1", TaskState.FAILED, reason="no budget")
    watched = await fed("task", "watch", "digits-1", profile=canned.profile("viewer"))
    assert (watched.code, watched.out) == (1, "")
    assert "digits-1 FAILED: no budget" in watched.err
