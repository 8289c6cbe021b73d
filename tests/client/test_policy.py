"""Every rule of an owner's policy refuses what breaks it, by name, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fedclient.policy import Policy, _within
from fedclient.state import Spent
from fedcore.errors import DevicePolicyError, FedcoreError, TaskError
from fedcore.federated.task import Task
from fedcore.secagg import Profile

AUTHOR = bytes(range(32))
NOON = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def private(root: Path) -> Task:
    """Fourteen writers' digits, with differential privacy of records and masks."""
    return Task.from_toml(root / "examples/tasks/digits.toml").resolved()


def rule_broken(policy: Policy, task: Task) -> str:
    with pytest.raises(DevicePolicyError) as caught:
        policy.check_task(task, author=AUTHOR)
    assert caught.value.where in caught.value.why and caught.value.fix
    return caught.value.where


def test_the_default_takes_a_masked_task(private: Task, secure_task: Task) -> None:
    for task in (private, secure_task):
        Policy().check_task(task, author=AUTHOR)


def test_the_default_refuses_a_task_whose_server_sees_updates(open_task: Task) -> None:
    assert rule_broken(Policy(), open_task) == "secure_aggregation.profile"
    Policy.parse('[secure_aggregation]\nprofile = "off"').check_task(open_task, author=AUTHOR)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("tasks", 'names = ["another"]'),
        ("tasks", f'digests = ["{"0" * 64}"]'),
        ("tasks", f'authors = ["{"0" * 64}"]'),
        ("tasks", 'programs = ["mine"]'),
        ("tasks", 'models = ["lenet"]'),
        ("secure_aggregation", "smallest_cohort = 13"),
        ("secure_aggregation", "gamma_floor = 0.2"),
        ("secure_aggregation", "sigma_floor = 101"),
        ("secure_aggregation", "delta_ceiling = 0.1"),
        ("privacy", 'unit = "client"'),
        ("privacy", "epsilon_ceiling = 0.5"),
        ("privacy", "delta_ceiling = 1e-9"),
        ("privacy", "noise_floor = 1e6"),
        ("privacy", "clipping_ceiling = 0.001"),
        ("privacy", 'noise = ["compact"]'),
        ("budget", "largest_upload = 100"),
    ],
)
def test_each_rule_refuses_and_is_named(private: Task, table: str, line: str) -> None:
    policy = Policy.parse(f"[{table}]\n{line}")
    assert rule_broken(policy, private) == f"{table}.{line.split()[0]}"


def test_each_rule_takes_what_it_names(private: Task) -> None:
    Policy.parse(
        f"""
        [tasks]
        names = ["{private.name}"]
        digests = ["{private.digest.hex()}"]
        authors = ["{AUTHOR.hex()}"]
        programs = ["local"]
        models = ["layers"]
        [secure_aggregation]
        smallest_cohort = 12
        [privacy]
        required = true
        epsilon_ceiling = {private.plan.epsilon if private.plan else 0}
        noise = ["shares", "compact"]
        """
    ).check_task(private, author=AUTHOR)


@pytest.mark.parametrize(
    "line",
    ["required = true", "epsilon_ceiling = 8.0", "noise_floor = 0.1", "clipping_ceiling = 1"],
)
def test_whoever_asks_for_a_floor_of_privacy_takes_no_task_without_any(
    secure_task: Task, line: str
) -> None:
    assert rule_broken(Policy.parse(f"[privacy]\n{line}"), secure_task) == "privacy.required"


def test_downloads_are_bounded() -> None:
    policy = Policy.parse("[budget]\nlargest_download = 100")
    policy.check_download(100)
    with pytest.raises(DevicePolicyError, match="largest_download"):
        policy.check_download(101)


@pytest.mark.parametrize(
    ("text", "spent", "battery", "rule"),
    [
        ('[times]\nhours = ["22:00-06:00"]', Spent(), None, "times.hours"),
        ("[budget]\nbytes_a_day = 100", Spent(100, 0), None, "budget.bytes_a_day"),
        ("[budget]\nseconds_a_day = 5.0", Spent(0, 5), None, "budget.seconds_a_day"),
        ("[times]\nbattery_floor = 0.5", Spent(), 0.4, "times.battery_floor"),
    ],
)
def test_work_waits_for_the_hour_the_day_and_the_battery(
    text: str, spent: Spent, battery: float | None, rule: str
) -> None:
    policy = Policy.parse(text)
    with pytest.raises(DevicePolicyError) as caught:
        policy.check_now(now=NOON, spent=spent, battery=battery)
    assert caught.value.where == rule
    policy.check_now(now=NOON.replace(hour=23), spent=Spent(99, 4.9), battery=None)


@pytest.mark.parametrize(
    ("text", "spent", "rule"),
    [
        ("[budget]\nbytes_a_day = 100", Spent(61, 0), "budget.bytes_a_day"),
        ("[budget]\nseconds_a_day = 5.0", Spent(0, 5), "budget.seconds_a_day"),
    ],
)
def test_work_that_would_cost_more_than_the_day_has_left_is_not_begun(
    text: str, spent: Spent, rule: str
) -> None:
    policy = Policy.parse(text)
    with pytest.raises(DevicePolicyError) as caught:
        policy.check_cost(due=40, spent=spent)
    assert caught.value.where == rule and rule in caught.value.why
    policy.check_cost(due=40, spent=Spent(60, 4.9))


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_hours_wrap_around_midnight(begin: int, end: int, now: int) -> None:
    def text(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    at = datetime(2030, 1, 1, now // 60, now % 60, tzinfo=UTC).time()
    inside = _within(at, f"{text(begin)}-{text(end)}")
    if begin != end:
        assert inside != _within(at, f"{text(end)}-{text(begin)}")


@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(1, 4))),
    st.tuples(st.integers(0, 5), st.integers(1, 4)),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_no_round_gets_more_vectors_than_allowed_and_no_task_more_rounds(
    given_before: set[tuple[int, int]], place: tuple[int, int], rounds: int, attempts: int
) -> None:
    policy = Policy.parse(f"[secure_aggregation]\nattempts = {attempts}")
    before = frozenset(given_before)
    try:
        policy.check_release(round=place[0], attempt=place[1], rounds=rounds, given=before)
    except DevicePolicyError:
        after = before | {place}
        too_often = sum(1 for round, _ in after if round == place[0]) > attempts
        assert place not in before and (too_often or len({r for r, _ in after}) > rounds)
    else:
        if place not in before:
            after = before | {place}
            assert sum(1 for round, _ in after if round == place[0]) <= attempts
            assert len({round for round, _ in after}) <= rounds


def test_floors_hold_in_the_session_too() -> None:
    registrar = bytes(32)
    policy = Policy.parse(
        """
        [secure_aggregation]
        smallest_cohort = 7
        gamma_floor = 0.2
        sigma_floor = 90
        delta_ceiling = 0.25
        attempts = 2
        [privacy]
        noise_floor = 0.5
        clipping_ceiling = 2.0
        [budget]
        largest_upload = 1000
        """
    ).session_policy((registrar,))
    assert policy.roots == (registrar,) and policy.profile is Profile.MALICIOUS
    assert (policy.smallest_cohort, policy.attempts, policy.largest_upload) == (7, 2, 1000)
    assert (policy.gamma_floor, policy.delta_ceiling) == (Fraction(1, 5), Fraction(1, 4))
    assert (policy.sigma_floor, policy.noise_floor, policy.clipping_ceiling) == (90, 0.5, 2.0)


def test_the_owner_may_name_the_registrars() -> None:
    own = "ab" * 32
    policy = replace(Policy(), registrars=(own,))
    assert policy.session_policy((bytes(32),)).roots == (bytes.fromhex(own),)
    assert Policy().privacy.epsilon_ceiling == math.inf


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[privacy]\nepsilon_cieling = 3", "epsilon_ceiling"),
        ("[privcy]\nrequired = true", "privacy"),
        ('[secure_aggregation]\nprofile = "malicous"', "malicious"),
        ('[times]\nhours = ["25:00-26:00"]', ""),
        ("[budget]\nbytes_a_day = 0", ""),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f"# mine\n{text}\n")
    with pytest.raises(TaskError) as caught:
        Policy.load(path)
    assert caught.value.where.startswith("policy.toml:") and hint in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        Policy.parse(text)
    except FedcoreError as error:
        assert isinstance(error, TaskError)
