"""A task has one canonical form, and nothing but it is accepted from a network."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import FedcoreError, PlanError, TaskError
from fedcore.federated.fields import grid_step, statistics_of, update_limit
from fedcore.federated.spec import EvaluationSpec
from fedcore.federated.task import Task
from fedcore.federated.task_json import LARGEST_JSON, read_document
from fedcore.rounds import Phase
from fedcore.secagg import Profile
from tests.random_examples import thorough

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"
TASKS = {path.stem: Task.from_toml(path).resolved() for path in sorted(EXAMPLES.glob("*.toml"))}
NAMES = st.text("abcdefghij0123456789", min_size=1, max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1/3", "malicious", "record", "linear", "fedsgd", "sgd", 2**70]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON document."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(item, (*path, key))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """The document with another value at a path, in canonical dress."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(copy, sort_keys=True, separators=(",", ":")).encode()


def test_the_canonical_form_gives_back_the_same_task(task: Task) -> None:
    again = Task.from_canonical(task.canonical)
    assert again == task
    assert again.canonical == task.canonical
    assert again.digest == task.digest


def test_resolving_twice_changes_nothing(task: Task) -> None:
    assert task.resolved() is task


def test_the_digest_is_of_the_canonical_form_under_its_own_domain(task: Task) -> None:
    assert task.digest == hashlib.sha256(b"fedcore task 1\0" + task.canonical).digest()
    assert task.digest != hashlib.sha256(task.canonical).digest()


@pytest.mark.parametrize("name", ["digits-plain", pytest.param("digits", marks=pytest.mark.slow)])
def test_no_changed_byte_is_taken_for_the_same_task(name: str) -> None:
    data, digest = TASKS[name].canonical, TASKS[name].digest
    for at in range(len(data)):
        for byte in {data[at] ^ 1, data[at] ^ 0x20, ord("0")} - {data[at]}:
            try:
                found = Task.from_canonical(data[:at] + bytes([byte]) + data[at + 1 :])
            except FedcoreError:
                continue
            assert found.digest != digest, (at, byte)


@given(st.data())
def test_bytes_put_in_or_left_out_are_refused(data: st.DataObject) -> None:
    canonical = TASKS["digits"].canonical
    at = data.draw(st.integers(0, len(canonical) - 1))
    extra = data.draw(st.binary(max_size=3))
    left = data.draw(st.integers(0 if extra else 1, 3))
    found = canonical[:at] + extra + canonical[at + left :]
    if found == canonical:
        return
    try:
        assert Task.from_canonical(found).digest != TASKS["digits"].digest
    except FedcoreError as error:
        assert isinstance(error, TaskError | PlanError)


@settings(max_examples=thorough(300))
@given(st.data())
def test_whatever_stands_in_a_task_the_error_is_of_tasks_or_plans(data: st.DataObject) -> None:
    document = json.loads(TASKS[data.draw(st.sampled_from(sorted(TASKS)))].canonical)
    path = data.draw(st.sampled_from(places(document)))
    try:
        Task.from_canonical(changed(document, path, data.draw(JSON)))
    except FedcoreError as error:
        assert isinstance(error, TaskError | PlanError), error


@given(JSON)
def test_random_json_is_refused_as_a_task(value: Any) -> None:
    with pytest.raises(TaskError):
        Task.from_canonical(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"format":' + b"1" * 5000 + b"}",
        b'{"format":1e999}',
        b'{"format":NaN}',
        b'{"format":true}',
        b'{"format":2}',
    ],
    ids=lambda data: str(data[:12]),
)
def test_bytes_that_are_no_task_are_refused(data: bytes) -> None:
    with pytest.raises(TaskError):
        Task.from_canonical(data)


def test_a_task_of_more_bytes_than_any_is_refused_before_it_is_read() -> None:
    for data in (b" " * (LARGEST_JSON + 1), b"[" * (LARGEST_JSON + 1)):
        with pytest.raises(TaskError, match="a task of 1,048,577 bytes"):
            Task.from_canonical(data)


def test_json_that_says_the_same_in_another_form_is_refused() -> None:
    document = json.loads(TASKS["digits"].canonical)
    spaced = json.dumps(document, sort_keys=True).encode()
    without_default = json.loads(TASKS["digits"].canonical)
    del without_default["deadlines"]["patience"]
    shorter = json.dumps(without_default, sort_keys=True, separators=(",", ":")).encode()
    doubled = TASKS["digits"].canonical.replace(b'"format":1', b'"format":1,"format":1')
    for data in (spaced, shorter, doubled):
        with pytest.raises(TaskError, match="no canonical task"):
            Task.from_canonical(data)


def test_a_task_that_is_not_resolved_has_no_canonical_form() -> None:
    task = Task.from_toml(EXAMPLES / "digits.toml")
    for ask in (lambda: task.canonical, lambda: task.digest, lambda: task.layout):
        with pytest.raises(TaskError, match=r"without model\.parts") as caught:
            ask()
        assert "resolved()" in caught.value.fix


def test_an_unresolved_document_is_refused_from_a_network() -> None:
    document = json.loads(TASKS["digits"].canonical)
    del document["plan"]
    with pytest.raises(TaskError, match="without plan"):
        Task.from_canonical(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "noise_multiplier"), "1/1"),
        (("plan", "noise", "survivors"), 12),
        (("plan", "rounds"), 39),
        (("plan", "population"), 1439),
        (("plan", "denominator"), 1),
        (("privacy", "population"), 2000),
        (("privacy", "epsilon"), 2.0),
        (("cohort", "minimum"), 13),
        (("rounds", "count"), 41),
        (("model", "parts"), [4096, 64, 640]),
        (("secure_aggregation", "gamma"), "3/10"),
    ],
    ids=str,
)
def test_a_plan_that_does_not_follow_from_its_task_is_refused(
    path: tuple[str, ...], value: Any
) -> None:
    document = json.loads(TASKS["digits"].canonical)
    with pytest.raises((TaskError, PlanError)):
        Task.from_canonical(changed(document, path, value))


def test_more_noise_than_the_promise_needs_is_accepted() -> None:
    document = json.loads(TASKS["digits"].canonical)
    found = Task.from_canonical(changed(document, ("plan", "noise_multiplier"), "3/1"))
    assert found.plan is not None
    assert found.plan.noise_multiplier == 3


@given(
    seed=st.integers(0, 2**63 - 1),
    name=NAMES,
    dataset=NAMES,
    count=st.integers(1, 10**6),
    goal=st.integers(1, 100),
    lr=st.floats(1e-6, 10),
    steps=st.integers(1, 10**6),
    weighted=st.booleans(),
)
def test_what_toml_says_survives_the_canonical_form(
    seed: int,
    name: str,
    dataset: str,
    count: int,
    goal: int,
    lr: float,
    steps: int,
    weighted: bool,
) -> None:
    text = f"""
        [task]
        name = "{name}"
        seed = {seed}
        [model]
        arrays = [{{name = "w", shape = [3, 4]}}, {{name = "b", shape = []}}]
        [data]
        dataset = "{dataset}"
        [training]
        program = "own"
        steps = {steps}
        optimizer = {{name = "adam", lr = {lr!r}}}
        options = {{depth = 3, "fine tune" = true}}
        [algorithm]
        name = "fedyogi"
        [update]
        weighted = {str(weighted).lower()}
        [secure_aggregation]
        profile = "off"
        [rounds]
        count = {count}
        [cohort]
        goal = {goal}
        minimum = 1
    """
    task = Task.from_toml(text).resolved()
    assert Task.from_canonical(task.canonical) == task
    assert (task.name, task.seed, task.data.dataset) == (name, seed, dataset)
    assert (task.rounds.count, task.cohort.goal, task.training.steps) == (count, goal, steps)
    assert task.rate(0) == lr
    assert dict(task.training.options) == {"depth": 3, "fine tune": True}
    assert task.update.weighted is weighted
    assert task.dimension == 13


def test_a_private_task_sends_one_block_and_no_statistics() -> None:
    task = TASKS["digits"]
    assert task.plan is not None
    [block] = task.layout.blocks
    assert statistics_of(task) == ()
    assert (block.length, block.slot_bits, block.wraps) == (4810, 32, True)
    config = task.session_config()
    assert config.task == task.digest
    assert config.layout == task.layout
    assert config.profile is Profile.MALICIOUS
    assert (config.gamma, config.delta) == (Fraction(1, 10), Fraction(3, 20))
    assert config.noise_multiplier == float(task.plan.noise_multiplier)
    assert config.clipping_norm == 1.0


def test_a_plain_task_sends_its_update_and_named_statistics() -> None:
    task = TASKS["digits-plain"]
    update, statistics = task.layout.blocks
    assert (update.length, statistics.length) == (task.dimension, len(statistics_of(task)))
    assert update.limit == update_limit(task) == (2**31 - 1) // 14
    assert grid_step(task) * update.limit == 4
    assert [field.name for field in statistics_of(task)] == [
        "weight",
        "examples",
        "loss",
        "saturated",
        "evaluation_examples",
        "evaluation_loss",
        "evaluation_accuracy",
    ]
    assert statistics.length == 7
    task.layout.check_budget(task.cohort.select)
    config = task.session_config()
    assert (config.clipping_norm, config.noise_multiplier) == (0.0, 0.0)


def test_an_evaluation_that_is_kept_is_not_sent() -> None:
    document = json.loads(TASKS["digits-plain"].canonical)
    del document["format"]
    arguments = read_document(document)
    arguments["evaluation"] = EvaluationSpec(every=5, reported=False)
    kept = Task(**arguments)
    assert len(statistics_of(kept)) == 4


def test_the_policy_of_rounds_has_every_phase_of_the_profile() -> None:
    policy = TASKS["har"].policy()
    assert (policy.goal, policy.minimum, policy.select) == (20, 18, 23)
    assert (policy.secure, policy.confirming, policy.max_attempts) == (True, True, 3)
    assert policy.durations[Phase.COLLECTING] == 420_000
    assert Phase.CONFIRMING in policy.durations


def test_the_learning_rate_follows_its_schedule_by_round() -> None:
    har = TASKS["har"]
    assert har.rate(0) == 0.05
    assert har.rate(60) == pytest.approx(0.005)
    assert TASKS["digits"].rate(7) == 2.0
