"""`fed privacy verify` and `export` hold a ledger against its checkpoint, and say what holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.ledger_records import Migrate
from tests.privacy.commands_world import Fed, data_of, spend
from tests.privacy.ledger_world import plan_of

# verify


def test_a_ledger_older_than_its_checkpoint_does_not_hold(fed: Fed, tmp_path: Path) -> None:
    folder, head = tmp_path / "ledger", tmp_path / "head.json"
    spend(folder, plan_of(), 1)
    old = (folder / "privacy.ledger").read_bytes()
    with Ledger.open(folder, checkpoint=None) as ledger:
        ledger.reserve(1)
        head.write_text(json.dumps(ledger.head.to_json(), indent=1))
    assert fed("verify", folder, "--checkpoint", head)[0] == 0
    (folder / "privacy.ledger").write_bytes(old)
    code, out, _ = fed("verify", folder)
    assert code == 0 and "without --checkpoint an older copy" in out
    for arguments in (("verify", folder), ("export", folder)):
        code, out, err = fed(*arguments, "--checkpoint", head)
        assert (code, out) == (1, "") and err.startswith("FED-1509")


def test_a_damaged_payload_does_not_hold_and_is_named(fed: Fed, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    spend(folder, plan_of(), 3)
    payloads = sorted(folder.glob("release-*.bin"))
    payloads[0].write_bytes(b"another")
    payloads[2].unlink()
    code, out, _ = fed("verify", folder, "--format", "json")
    found = data_of(out, "verify")
    assert code == 1 and not found["holds"] and found["damaged"] == [0, 2]
    code, out, _ = fed("verify", folder)
    assert code == 1 and out.startswith(
        "verdict         does not hold\nbecause         the payloads"
    )


def test_more_spent_than_budgeted_does_not_hold(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(), 3)
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        ledger._journal.write(Migrate(plan_of(epsilon=0.1)))  # as no ledger of ours would
    code, out, _ = fed("verify", tmp_path / "ledger")
    assert code == 1 and "more was spent than the budget allows" in out
    code, out, _ = fed("show", tmp_path / "ledger")
    assert code == 0 and "warning         more was spent than the budget allows\n" in out
    assert "0 left: the budget pays for no further round\n" in out
    code, out, _ = fed("show", tmp_path / "ledger", "--format", "json")
    assert data_of(out, "show")["within_budget"] is False
    assert fed("export", tmp_path / "ledger", "--format", "text")[1].startswith("WARNING: epsilon")


@pytest.mark.parametrize("verb", ["show", "verify", "export"])
def test_a_folder_without_a_ledger_is_refused(fed: Fed, tmp_path: Path, verb: str) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        code, out, err = fed(verb, folder)
        assert (code, out) == (1, "") and err.startswith("FED-1508") and str(folder) in err
    (tmp_path / "privacy.ledger").touch()
    code, out, err = fed(verb, tmp_path / "privacy.ledger")
    assert (code, out) == (1, "") and f"pass a folder: {tmp_path}" in err
    code, out, err = fed(verb, tmp_path)
    assert (code, out) == (1, "") and "is empty" in err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "FED-1201"),
        ("{", "FED-1201"),
        ("[" * 5000, "FED-1201"),
        ('{"seq": 1.0, "digest": ""}', "FED-1201"),
        ('{"seq": NaN, "digest": ""}', "FED-1201"),
        ('{"seq": 1, "seq": 2, "digest": ""}', "FED-1201"),
        ('{"seq": ' + "9" * 5000 + "}", "FED-1201"),
        ('{"seq": 1, "digest": "xy"}', "FED-1508"),
        ("[]", "FED-1508"),
        ("\xff", "FED-1201"),
    ],
    ids=range(10),
)
def test_a_head_or_a_plan_of_another_form_is_refused(
    fed: Fed, tmp_path: Path, text: str, code: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))
    spend(tmp_path / "ledger", plan_of(), 1)
    for arguments in (
        ("verify", tmp_path / "ledger", "--checkpoint", path),
        ("plan", "--plan", path),
    ):
        found, out, err = fed(*arguments)
        assert (found, out) == (4 if code == "FED-1201" else 1, "") and err.startswith(code)


# export


def test_a_certificate_is_written_in_the_form_that_is_asked_for(fed: Fed, tmp_path: Path) -> None:
    spend(tmp_path / "ledger", plan_of(), 2)
    expected = json.loads(json.dumps(certificate(tmp_path / "ledger")))
    for form in ("json", "jsonl", None):
        path = tmp_path / f"certificate.{form}"
        chosen = () if form is None else ("--format", form)
        code, out, err = fed("export", tmp_path / "ledger", "--out", path, *chosen)
        assert (code, out) == (0, "") and err == f"wrote the certificate to {path}\n"
        assert json.loads(path.read_text("utf-8")) == expected
        assert path.read_text("utf-8").count("\n") == 1 or form != "jsonl"
        assert data_of(fed("export", tmp_path / "ledger", *chosen)[1], "export") == expected
    text = format_certificate(expected)
    path = tmp_path / "certificate.txt"
    assert fed("export", tmp_path / "ledger", "--format", "text")[1] == text
    assert fed("export", tmp_path / "ledger", "--out", path, "--format", "text")[0] == 0
    assert path.read_text("utf-8") == text
    code, _, err = fed("export", tmp_path / "ledger", "--out", path)
    assert code == 4 and "it is there already" in err and path.read_text("utf-8") == text
    code, _, err = fed("export", tmp_path / "ledger", "--out", tmp_path / "none" / "file")
    assert code == 4 and "No such file" in err
    assert fed("export", tmp_path / "ledger", "--trained-on", 50, "--format", "text")[1].startswith(
        "SIMULATED: 50 units"
    )
