"""A task from its file to its last model, by commands alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedserver.federation.interface import SubmittedTask


async def test_a_task_is_handed_in_followed_and_its_models_exported(
    fed: Any, training: Any, task_file: Path, tmp_path: Path
) -> None:
    profile = training.profile
    submitted = await fed("task", "submit", task_file, profile=profile)
    assert submitted.code == 0, submitted.err
    task_id = submitted.out.strip()
    assert task_id.startswith("small-") and "opened from" in submitted.err
    training.submitted = SubmittedTask(task_id, b"")

    ran, watched = await asyncio.gather(
        training.run(), fed("task", "watch", task_id, profile=profile)
    )
    assert ran.state.value == "COMPLETED" and watched.code == 0, watched.err
    lines = watched.out.splitlines()
    assert [line[:9] for line in lines] == ["round 1/2", "round 2/2"]
    assert all("sel 5 ok 5 drop 0  loss " in line for line in lines), lines
    assert f"{task_id} COMPLETED" in watched.err

    listed = await fed("task", "list", "--format", "json", profile=profile)
    assert [(one["task_id"], one["rounds_completed"]) for one in listed.data] == [(task_id, 2)]
    shown = await fed("task", "show", task_id, "--format", "json", profile=profile)
    assert shown.data["spec"]["task"]["name"] == "small"

    rounds = await fed("round", "list", task_id, "--format", "json", profile=profile)
    assert [(one["round"], one["reported"]) for one in rounds.data] == [(0, 5), (1, 5)]
    newest = await fed("round", "show", task_id, "--format", "json", profile=profile)
    assert newest.data["round"] == 1 and len(newest.data["participants"]) == 5
    assert [step["to"] for step in newest.data["transitions"]][-2:] == ["COMPLETED", "SCRUBBED"]
    first = await fed("round", "show", task_id, 1, profile=profile)
    assert f"{task_id} round 1 attempt" in first.out and "RELEASING -> COMPLETED" in first.out

    models = (await fed("model", "list", task_id, "--format", "json", profile=profile)).data
    assert len(models) == 3 and [one["newest"] for one in models] == [False, False, True]
    out = tmp_path / "last.safetensors"
    exported = await fed("model", "export", task_id, "--out", out, profile=profile)
    assert exported.code == 0, exported.err
    assert hashlib.sha256(out.read_bytes()).digest() == await training.final()

    compared = await fed(
        "model", "diff", out, models[0]["model"], "--format", "json", profile=profile
    )
    assert compared.code == 0, compared.err
    last = await training.theta(await training.final())
    begun = await training.theta(bytes.fromhex(models[0]["model"]))
    delta = np.sqrt(sum(one["norm"] ** 2 for one in compared.data))
    assert np.isclose(delta, np.linalg.norm(np.float64(last) - np.float64(begun)), rtol=1e-6)


async def test_the_log_of_a_task_is_one_chain_with_a_signed_head(
    fed: Any, training: Any, task_file: Path, tmp_path: Path
) -> None:
    profile = training.profile
    await fed("task", "submit", task_file, profile=profile)
    key = Ed25519PrivateKey.from_private_bytes(b"s" * 32).public_key().public_bytes_raw().hex()
    none = await fed("audit", "verify", "--signer", key, profile=profile)
    assert none.code == 0 and "a head at entry 0 is signed" in none.out  # of the server's start
    await training.heads.sign()
    signed = await fed("audit", "verify", "--signer", key, "--format", "json", profile=profile)
    assert signed.code == 0, signed.err
    assert signed.data["head"] == "signed" and signed.data["entries"] >= 1
    unchecked = await fed("audit", "verify", profile=profile)
    assert unchecked.code == 0 and "was not checked" in unchecked.out
    wrong = await fed("audit", "verify", "--signer", "00" * 31 + "01", profile=profile)
    assert wrong.code == 1 and "FED-2205" in wrong.err

    tail = await fed("audit", "tail", profile=profile)
    assert "user:default/ada  task.submit" in tail.out
    assert len((await fed("audit", "tail", "-n", 1, profile=profile)).out.splitlines()) == 1
    lines = (await fed("audit", "export", profile=profile)).out
    file = tmp_path / "log.jsonl"
    written = await fed("audit", "export", "--out", file, profile=profile)
    assert written.code == 0 and file.read_text().startswith(lines)
    whole = await fed("audit", "verify", "--file", file)
    assert whole.code == 0, whole.err
    altered = [json.loads(line) for line in lines.splitlines()]
    altered[-1]["actor"] = "user:default/eve"
    text = json.dumps(altered[-1], sort_keys=True, separators=(",", ":")) + "\n"
    file.write_text("".join(lines.splitlines(keepends=True)[:-1]) + text)
    broken = await fed("audit", "verify", "--file", file)
    assert broken.code == 1 and "is not what was written" in broken.err
