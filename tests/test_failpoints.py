"""Failpoints: every name stands in the code, nothing is armed by itself, and an armed one acts."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fedcore import failpoints
from fedcore.errors import ArgumentError
from fedcore.failpoints import NAMES, arm, disarm, failpoint

# Names that no line of the code calls yet. It may only shrink, and ends empty.
NOT_CALLED_YET: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    disarm()


def calls(root: Path) -> list[tuple[str, object]]:
    """(file:line, argument) of every call of `failpoint` in the code that ships."""
    found: list[tuple[str, object]] = []
    for folder in ("fedcore", "server/fedserver", "client/fedclient"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            if "failpoint" not in text:
                continue  # and to parse all of them takes two seconds
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and called(node) == "failpoint":
                    argument = node.args[0] if len(node.args) == 1 and not node.keywords else None
                    literal = argument.value if isinstance(argument, ast.Constant) else None
                    found.append((f"{path.relative_to(root)}:{node.lineno}", literal))
    return found


def called(node: ast.Call) -> str:
    target = node.func
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def test_the_names_are_sorted_and_differ() -> None:
    assert list(NAMES) == sorted(set(NAMES))


def test_every_call_names_a_failpoint_by_a_literal(root: Path) -> None:
    assert [(place, name) for place, name in calls(root) if name not in NAMES] == []


def test_every_name_is_called_somewhere(root: Path) -> None:
    assert set(NAMES) - {name for _, name in calls(root)} == NOT_CALLED_YET


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_armed_by_itself(name: str) -> None:
    failpoint(name)
    assert failpoints._armed == {}


def test_arming_is_refused_outside_the_test_mode_and_changes_nothing() -> None:
    with pytest.raises(ArgumentError, match="--test-mode"):
        arm("upload.after_seal=kill", test_mode=False)
    assert failpoints._armed == {}


@pytest.mark.parametrize("test_mode", [True, False])
@pytest.mark.parametrize("spec", ["", "  ", " ; "])
def test_an_empty_text_arms_nothing(spec: str, test_mode: bool) -> None:
    arm(spec, test_mode=test_mode)
    assert failpoints._armed == {}


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"did you mean 'upload\.after_seal'"):
        arm("upload.afterseal=kill", test_mode=True)


@given(st.text(max_size=30))
def test_what_is_no_action_is_refused_and_what_was_armed_stays(text: str) -> None:
    arm("scrub.before=error", test_mode=True)
    try:
        arm(f"scrub.midway={text}", test_mode=True)
    except ArgumentError:
        assert set(failpoints._armed) == {"scrub.before"}
    else:
        assert failpoints._ENTRY.match(text.strip())


@pytest.mark.parametrize(
    "action", ["kill@0", "kill@", "sleep", "sleep()", "sleep(-1)", "sleep(1.5)", "errors", "kill 3"]
)
def test_an_action_that_is_nearly_one_is_refused(action: str) -> None:
    with pytest.raises(ArgumentError, match="no action"):
        arm(f"scrub.before={action}", test_mode=True)


def test_an_error_comes_at_its_turn_and_at_no_other() -> None:
    arm("scrub.before=error@3", test_mode=True)
    outcomes = []
    for _ in range(5):
        try:
            failpoint("scrub.before")
        except OSError:
            outcomes.append("error")
        else:
            outcomes.append("")
    assert outcomes == ["", "", "error", "", ""]


def test_an_error_without_a_number_comes_every_time() -> None:
    arm("scrub.before=error", test_mode=True)
    for _ in range(3):
        with pytest.raises(OSError, match=r"scrub\.before"):
            failpoint("scrub.before")


def test_a_sleep_lasts_the_milliseconds_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("fedcore.failpoints.time.sleep", slept.append)
    arm("scrub.before=sleep(250); scrub.midway = sleep(0)@2", test_mode=True)
    for name in ("scrub.before", "scrub.midway", "scrub.midway"):
        failpoint(name)
    assert slept == [0.25, 0.0]


def test_arming_anew_forgets_what_was_armed() -> None:
    arm("scrub.before=error", test_mode=True)
    arm("scrub.midway=error", test_mode=True)
    failpoint("scrub.before")
    with pytest.raises(OSError, match=r"scrub\.midway"):
        failpoint("scrub.midway")


def test_threads_share_one_count() -> None:
    arm("scrub.before=error@40", test_mode=True)
    errors: list[OSError] = []

    def reach() -> None:
        for _ in range(20):
            try:
                failpoint("scrub.before")
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=reach) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1


def test_a_kill_ends_the_process_at_its_turn_at_once() -> None:
    program = (
        "from fedcore.failpoints import arm, failpoint\n"
        "arm('scrub.before=kill@3', test_mode=True)\n"
        "for turn in range(1, 5):\n"
        "    print(turn, flush=True)\n"
        "    failpoint('scrub.before')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["1", "2", "3"]
