"""What `fed privacy` takes and shows, without the words: scripts rely on it, so it is on record.

Where a change is meant, delete the file: the test then writes it anew, and fails once.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from fedcore.console import Parser
from fedcore.privacy.commands.audit import add_audit
from fedcore.privacy.commands.export import add_export
from fedcore.privacy.commands.plan import add_plan
from fedcore.privacy.commands.show import add_show
from fedcore.privacy.commands.verify import add_verify
from tests.privacy.commands_world import CENTRAL, CLIENT, SHARES

__all__ = ["QUESTIONS", "on_record", "options", "recorded"]

FOLDER: Final = Path(__file__).parent / "recorded"

_DIGEST: Final = re.compile(r"[0-9a-f]{16,}")
_NONE = ("--sampling", "none", "--participations", "3", "--separation", "2")
_RECORD = ("--unit", "record", "--population", "60000", "--sampling", "poisson", "--cohort", "600")
_BUDGET = ("--epsilon", "3", "--rounds", "10")
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "noise": ("plan", *CENTRAL, *_BUDGET),
    "epsilon": ("plan", *CENTRAL, "--rounds", "10", "--noise", "1.1", "--accountant", "rdp"),
    "rounds": ("plan", *CENTRAL, "--epsilon", "0.5", "--noise", "11/10"),
    "all three": ("plan", *CENTRAL, "--epsilon", "0.05", "--rounds", "100", "--noise", "1"),
    "too little": ("plan", *CENTRAL, "--epsilon", "0.001", "--noise", "0.5"),
    "uncontrolled": ("plan", *CLIENT, *_NONE, "--epsilon", "4", "--rounds", "9"),
    "of a fixed size": ("plan", *CLIENT, "--sampling", "fixed", "--cohort", "30", *_BUDGET),
    "truncated": (
        *("plan", *CLIENT, "--sampling", "truncated", "--cohort", "30"),
        *("--limit", "45", *_BUDGET),
    ),
    "of records": (
        *("plan", *_RECORD, "--steps", "20", "--noise", "1", "--rounds", "10"),
        *("--clipping-norm", "1/2", "--grid-steps", "4096", "--dimension", "10"),
    ),
    "shares": ("plan", *SHARES, *_BUDGET),
    "compact shares": ("plan", *SHARES, "--compact", *_BUDGET),
    "two missing": ("plan", *CENTRAL, "--rounds", "10"),
    "no unit": ("plan", "--population", "10", "--sampling", "poisson"),
    "nobody": ("plan", "--unit", "client", "--population", "0", "--sampling", "none", *_BUDGET),
    "no cohort": ("plan", *CLIENT, "--sampling", "fixed", *_BUDGET),
    "no limit": ("plan", *CLIENT, "--sampling", "truncated", "--rate", "0.1", *_BUDGET),
    "no participations": ("plan", *CLIENT, "--sampling", "none", *_BUDGET),
    "rate and cohort": ("plan", *CENTRAL, "--cohort", "10", *_BUDGET),
    "unused terms": ("plan", *CENTRAL, "--limit", "9", "--separation", "2", *_BUDGET),
    "unused shares": ("plan", *CENTRAL, "--clients", "9", "--compact", *_BUDGET),
    "no shares": ("plan", *CENTRAL, "--noise-by", "clients", *_BUDGET),
    "no number": ("plan", *CENTRAL, "--noise", "1.1.1", "--rounds", "1e-1"),
    "not to be written": ("plan", *CENTRAL, *_BUDGET, "--out", "{folder}/plan.json"),
    "beside a plan": ("plan", "--plan", "{folder}/plan.json", "--rounds", "3", "--unit", "client"),
    "shown": ("show", "{folder}"),
    "verified": ("verify", "{folder}"),
    "verified by a checkpoint": ("verify", "{folder}", "--checkpoint", "{folder}/head.json"),
    "exported": ("export", "{folder}"),
    "shown without a ledger": ("show", "{folder}/nowhere"),
}


def options() -> dict[str, list[dict[str, Any]]]:
    """Of each verb what it takes; no help, whose wording is nobody's to rely on."""
    parser = Parser(prog="fed privacy")
    verbs = parser.add_subparsers(dest="verb")
    for add in (add_plan, add_show, add_verify, add_export, add_audit):
        add(verbs)
    return dict(_taken("", verbs))


def _taken(name: str, verbs: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for verb, parser in verbs.choices.items():
        own = [action for action in parser._actions if action.dest != "help"]
        yield f"{name}{verb}", [_action(a) for a in own if not hasattr(a, "add_parser")]
        for action in own:
            if isinstance(action, argparse._SubParsersAction):
                yield from _taken(f"{name}{verb} ", action)


def _action(action: argparse.Action) -> dict[str, Any]:
    return {
        "names": list(action.option_strings) or [action.dest],
        "metavar": action.metavar,
        "choices": None if action.choices is None else [str(each) for each in action.choices],
        "default": str(action.default),
        "required": action.required,
        "nargs": str(action.nargs),
        "type": getattr(action.type, "__name__", None),
    }


def recorded(ask: Callable[..., tuple[int, str, str]], folder: Path) -> dict[str, Any]:
    """The answers to all questions, of a ledger that is made in `folder`."""
    folder.mkdir()
    shutil.copyfile(FOLDER / "version_1.ledger", folder / "privacy.ledger")
    answers = {}
    for name, words in QUESTIONS.items():
        asked = [word.replace("{folder}", str(folder)) for word in words]
        code, out, err = ask(*asked)
        if name == "verified":
            _, text, _ = ask(*asked, "--format", "json")
            (folder / "head.json").write_text(json.dumps(json.loads(text)["data"]["head"]))
        data = ask(*asked, "--format", "json")[1]
        answers[name] = {
            "code": code,
            "text": skeleton(out),
            "told": sorted({*re.findall(r"FED-\d+|--[a-z-]+", err)}),
            "data": _plain(json.loads(data)["data"]) if data else None,
        }
    return answers


def skeleton(text: str) -> list[str]:
    """Of each line its label and its numbers: words may change, these may not."""
    lines = []
    for line in [] if text.startswith("{") else text.splitlines():
        label, _, rest = line.partition("  ") if line[:1].strip() else ("", "", line)
        told = re.findall(r"\d+(?:[.,/]\d+)*(?:e[+-]?\d+)?", _DIGEST.sub("#", rest))
        lines.append(" ".join([label, *told]))
    return lines


def _plain(value: Any) -> Any:
    """Without digests, words, and digits that other versions of NumPy and SciPy find otherwise."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key != "software"}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"-?0x[0-9a-f.]+p[+-]\d+", value):
        value = float.fromhex(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, str):
        return "…" if " " in value else _DIGEST.sub("#", value)
    return value


def on_record(name: str, found: Any) -> Any:
    """What the file `name` holds. Raises: AssertionError where it was not there."""
    path = FOLDER / name
    if not path.exists():
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        raise AssertionError(f"{name} was not there, and holds now what was found")
    return json.loads(path.read_text("utf-8"))
