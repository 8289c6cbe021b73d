"""The owner of a device says what it takes part in; no server can lower that.

A policy is a TOML file of the tables below, each optional, or the same values in Python. What a
task promises is checked before anything of it is downloaded, and once more against the session of
secure aggregation that is really held. Every refusal names the rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fedclient.privacy_budget import Guarantee, TaskCost, guarantee_of, spent_in_all
from fedclient.state import Spent
from fedcore.errors import DevicePolicyError
from fedcore.settings import Bounds, Settings

if TYPE_CHECKING:
    from fedcore import secagg
    from fedcore.federated.task import Task

__all__ = [
    "AggregationRules",
    "BudgetRules",
    "Policy",
    "PrivacyRules",
    "TaskRules",
    "TimeRules",
]

_DIGEST: Final = r"[0-9a-f]{64}"
_HOURS: Final = r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d"
_PROFILES: Final = ("off", "semi_honest", "malicious")
_UNITS: Final = ("record", "client")


@dataclass(frozen=True, kw_only=True)
class TaskRules(Settings):
    """Which tasks: those that are in every list that is given.

    `names`; `digests` of whole tasks; `authors`, the Ed25519 keys that sign them, as hexadecimal
    digits; `programs` that train; `models`, by registered name, "layers" or "arrays".
    """

    names: tuple[str, ...] | None = None
    digests: Annotated[tuple[str, ...] | None, Bounds(pattern=_DIGEST)] = None
    authors: Annotated[tuple[str, ...] | None, Bounds(pattern=_DIGEST)] = None
    programs: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AggregationRules(Settings):
    """The weakest secure aggregation: see `fedcore.secagg.Policy`.

    `profile`: "off" also takes tasks whose server sees each update. `attempts`: for how many
    attempts at one round an update may leave; each may open a sum.
    """

    profile: Literal["malicious", "semi_honest", "off"] = "malicious"
    smallest_cohort: Annotated[int, Bounds(least=1, most=2**14)] = 3
    gamma_floor: Annotated[Fraction, Bounds(least=0, below=1)] = Fraction(1, 10)
    sigma_floor: Annotated[int, Bounds(least=40, most=1000)] = 40
    delta_ceiling: Annotated[Fraction, Bounds(least=0, below=1)] = Fraction(1, 3)
    attempts: Annotated[int, Bounds(least=1, most=100)] = 1


@dataclass(frozen=True, kw_only=True)
class PrivacyRules(Settings):
    """The weakest differential privacy. `required`: no task without.

    `unit`: "record", or "client", which protects more. The ceilings hold for a whole task, the
    totals for all tasks that a vector of this device has ever left for, see `privacy_budget`.
    `noise`: the kinds accepted; where it is "central", the server is trusted to add it.
    """

    required: bool = False
    unit: Literal["record", "client"] = "record"
    epsilon_ceiling: Annotated[float, Bounds(above=0)] = math.inf
    delta_ceiling: Annotated[float, Bounds(above=0, most=1)] = 1.0
    total_epsilon: Annotated[float, Bounds(above=0)] = math.inf
    total_delta: Annotated[float, Bounds(above=0)] = math.inf
    noise_floor: Annotated[float, Bounds(least=0)] = 0.0
    clipping_ceiling: Annotated[float, Bounds(above=0)] = math.inf
    noise: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class BudgetRules(Settings):
    """What it may cost; a day is the last 24 hours. `bytes_a_day`: both ways; seconds: of work."""

    largest_download: Annotated[int, Bounds(least=1)] = 2**30
    largest_upload: Annotated[int, Bounds(least=1)] = 2**30
    bytes_a_day: Annotated[int | None, Bounds(least=1)] = None
    seconds_a_day: Annotated[float | None, Bounds(above=0)] = None


@dataclass(frozen=True, kw_only=True)
class TimeRules(Settings):
    """When. `hours`: like "22:00-06:00", by the device's clock; `battery_floor`: 0 to 1."""

    hours: Annotated[tuple[str, ...] | None, Bounds(pattern=_HOURS)] = None
    battery_floor: Annotated[float, Bounds(least=0, most=1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Policy(Settings):
    """What the owner of a device allows. The default takes any task under secure aggregation.

    `registrars`: whose word counts for who other clients are, Ed25519 keys as hexadecimal digits;
    None: those that the server named when this device joined.

    >>> Policy(privacy=PrivacyRules(required=True, epsilon_ceiling=4.0)).privacy.epsilon_ceiling
    4.0
    """

    tasks: TaskRules = field(default_factory=TaskRules)
    secure_aggregation: AggregationRules = field(default_factory=AggregationRules)
    privacy: PrivacyRules = field(default_factory=PrivacyRules)
    budget: BudgetRules = field(default_factory=BudgetRules)
    times: TimeRules = field(default_factory=TimeRules)
    registrars: Annotated[tuple[str, ...] | None, Bounds(pattern=_DIGEST)] = None

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """The policy of a file. Raises: TaskError with file and line."""
        from fedcore.toml import read_file

        return read_file(Path(path), cls)

    @classmethod
    def parse(cls, text: str, *, source: str = "policy") -> Policy:
        """The policy of a text. Raises: TaskError, which calls the text `source`."""
        from fedcore.toml import read_table

        return read_table(text, source, cls)

    def check_task(self, task: Task, *, author: bytes) -> None:
        """Raises: DevicePolicyError, naming the rule, unless the owner allows this task."""
        for rule, value, allowed in self._tasks(task, author):
            if allowed is not None and value not in allowed:
                raise _refused(f"tasks.{rule}", f"the {rule.rstrip('s')} {value}", allowed)
        self._check_aggregation(task)
        self._check_privacy(task)
        self._at_most("budget.largest_upload", task.layout.upload_bytes, "bytes of an update")

    def check_download(self, size: int) -> None:
        """Raises: DevicePolicyError for a model of more bytes than the owner allows."""
        self._at_most("budget.largest_download", size, "bytes of a model")

    def check_clipping(self, norm: float) -> None:
        """Raises: DevicePolicyError for a round that clips by more than the owner allows."""
        limit = self.privacy.clipping_ceiling
        if norm > limit:
            raise _refused("privacy.clipping_ceiling", f"a clipping norm of {norm:.4g}", limit)

    def check_now(self, *, now: datetime, spent: Spent, battery: float | None) -> None:
        """Raises: DevicePolicyError if work has to wait: for the hour, the day or the battery.

        `now`: in the device's zone. `spent`: in the last 24 hours. `battery`: its charge, 0 to 1;
        None: there is none.
        """
        times = self.times
        if times.hours is not None and not any(_within(now.time(), span) for span in times.hours):
            raise _refused("times.hours", f"it is {now:%H:%M}", times.hours)
        # To begin anything moves a byte.
        self.check_cost(due=1, spent=spent)
        if battery is not None and battery < times.battery_floor:
            raise _refused("times.battery_floor", f"a charge of {battery:.0%}", times.battery_floor)

    def check_cost(self, *, due: int, spent: Spent) -> None:
        """Raises: DevicePolicyError if the day has not enough left for work that moves `due` bytes.

        `spent`: in the last 24 hours. How long work takes is not known before.
        """
        budget, moved = self.budget, spent.bytes + due
        if budget.bytes_a_day is not None and moved > budget.bytes_a_day:
            raise _refused("budget.bytes_a_day", f"{moved} bytes in a day", budget.bytes_a_day)
        if budget.seconds_a_day is not None and spent.seconds >= budget.seconds_a_day:
            worked = f"{spent.seconds:.0f} seconds worked"
            raise _refused("budget.seconds_a_day", worked, budget.seconds_a_day)

    def check_release(
        self, *, round: int, attempt: int, rounds: int, given: frozenset[tuple[int, int]]
    ) -> None:
        """Raises: DevicePolicyError if another update of this round, or of the task, may not leave.

        `given`: the (round, attempt) of the task for which one has left; `rounds`: those it plans.
        """
        if (round, attempt) in given:
            return
        limit = self.secure_aggregation.attempts
        attempts = sum(1 for other, _ in given if other == round)
        if attempts >= limit:
            what = f"{attempts + 1} attempts at round {round + 1}"
            raise _refused("secure_aggregation.attempts", what, limit)
        if len({round, *(other for other, _ in given)}) > rounds:
            raise DevicePolicyError(
                f"the task asks for more than its {rounds} rounds",
                why="what it promises was worked out for so many",
                fix="report it to the operator: the server does not keep to the task",
            )

    def check_total(self, task: Task, *, times: int, spent: Sequence[TaskCost]) -> None:
        """Raises: DevicePolicyError if all tasks together would cost more than the owner allows.

        `times`: as how many runs of the task its vectors would count. `spent`: by all tasks.
        """
        rules, own = self.privacy, guarantee_of(task)
        if math.isinf(rules.total_epsilon) and math.isinf(rules.total_delta):
            return
        if own is None:
            raise _refused("privacy.required", "no differential privacy", "a task with it")
        others = [cost for cost in spent if cost.task_digest != task.digest]
        for cost in others:
            if cost.guarantee is None:
                raise DevicePolicyError(
                    "the owner of this device does not allow to add to what is unknown",
                    why=f"its policy limits privacy.total_epsilon or total_delta, and what task "
                    f"{cost.task} has cost is not on record",
                    fix="its owner may leave the totals out, or let that task, if it promises "
                    "privacy, take one more update: that puts it on record",
                    where="privacy.total_epsilon",
                )
        asked, left = TaskCost(task.name, task.digest, times, own), self.left_of_totals(others)
        after = spent_in_all([*others, asked])
        for name in ("epsilon", "delta"):
            limit: float = getattr(rules, f"total_{name}")
            if getattr(after, name) > limit:
                raise _refused(
                    f"privacy.total_{name}",
                    f"{name} = {getattr(asked.spent, name):.4g} in all for this task",
                    f"{limit:.4g} for all tasks, of which others leave {getattr(left, name):.4g}",
                )

    def left_of_totals(self, spent: Sequence[TaskCost]) -> Guarantee:
        """What further tasks may cost; infinite where the owner sets no total."""
        rules, before = self.privacy, spent_in_all(spent)
        return Guarantee(
            _left(rules.total_epsilon, before.epsilon), _left(rules.total_delta, before.delta)
        )

    def session_policy(self, registrars: tuple[bytes, ...]) -> secagg.Policy:
        """The same floors for a session of secure aggregation. `registrars`: of the federation."""
        from fedcore import secagg

        rules = self.secure_aggregation
        roots = registrars
        if self.registrars is not None:
            roots = tuple(bytes.fromhex(key) for key in self.registrars)
        semi_honest = rules.profile != "malicious"
        return secagg.Policy(
            roots=roots,
            smallest_cohort=max(2, rules.smallest_cohort),
            profile=secagg.Profile.SEMI_HONEST if semi_honest else secagg.Profile.MALICIOUS,
            gamma_floor=rules.gamma_floor,
            sigma_floor=rules.sigma_floor,
            delta_ceiling=rules.delta_ceiling,
            largest_upload=self.budget.largest_upload,
            clipping_ceiling=self.privacy.clipping_ceiling,
            noise_floor=self.privacy.noise_floor,
            attempts=rules.attempts,
        )

    def _tasks(self, task: Task, author: bytes) -> tuple[tuple[str, str, Any], ...]:
        rules, model = self.tasks, task.model
        kind = model.name or ("layers" if model.layers else "arrays")
        return (
            ("names", task.name, rules.names),
            ("digests", task.digest.hex(), rules.digests),
            ("authors", author.hex(), rules.authors),
            ("programs", task.training.program, rules.programs),
            ("models", kind, rules.models),
        )

    def _check_aggregation(self, task: Task) -> None:
        rules, terms = self.secure_aggregation, task.secure_aggregation
        profile = "off" if terms is None else terms.profile
        if _PROFILES.index(profile) < _PROFILES.index(rules.profile):
            raise _refused("secure_aggregation.profile", f"the profile {profile}", rules.profile)
        if task.cohort.minimum < rules.smallest_cohort:
            cohort = f"a cohort of {task.cohort.minimum}"
            raise _refused("secure_aggregation.smallest_cohort", cohort, rules.smallest_cohort)
        if terms is None:
            return
        for rule, holds, value in (
            ("gamma_floor", terms.gamma >= rules.gamma_floor, f"gamma {terms.gamma}"),
            ("sigma_floor", terms.sigma >= rules.sigma_floor, f"sigma {terms.sigma}"),
            ("delta_ceiling", terms.delta <= rules.delta_ceiling, f"delta {terms.delta}"),
        ):
            if not holds:
                raise _refused(f"secure_aggregation.{rule}", value, getattr(rules, rule))

    def _check_privacy(self, task: Task) -> None:
        rules, terms, plan = self.privacy, task.privacy, task.plan
        if terms is None or plan is None:
            ceilings = min(rules.epsilon_ceiling, rules.clipping_ceiling)
            if rules.required or rules.noise_floor > 0 or math.isfinite(ceilings):
                raise _refused("privacy.required", "no differential privacy", "a task with it")
            return
        delta = plan.delta if plan.delta is not None else 1.0
        for rule, holds, value in (
            ("unit", _UNITS.index(terms.unit) >= _UNITS.index(rules.unit), f"the {terms.unit}"),
            ("epsilon_ceiling", plan.epsilon <= rules.epsilon_ceiling, f"epsilon {plan.epsilon}"),
            ("delta_ceiling", delta <= rules.delta_ceiling, f"delta {delta}"),
            (
                "noise_floor",
                plan.noise_multiplier >= rules.noise_floor,
                f"a noise multiplier of {float(plan.noise_multiplier):.4g}",
            ),
            (
                "clipping_ceiling",
                terms.clipping_norm <= rules.clipping_ceiling,
                f"a clipping norm of {float(terms.clipping_norm):.4g}",
            ),
            ("noise", rules.noise is None or terms.noise in rules.noise, f"{terms.noise} noise"),
        ):
            if not holds:
                raise _refused(f"privacy.{rule}", value, getattr(rules, rule))

    def _at_most(self, rule: str, value: int, unit: str) -> None:
        limit = getattr(self.budget, rule.removeprefix("budget."))
        if value > limit:
            raise _refused(rule, f"{value} {unit}", limit)


def _left(limit: float, spent: float) -> float:
    return limit if math.isinf(limit) else max(0.0, limit - spent)


def _refused(rule: str, value: str, allowed: object) -> DevicePolicyError:
    shown = ", ".join(map(str, allowed)) if isinstance(allowed, tuple) else str(allowed)
    return DevicePolicyError(
        f"the owner of this device does not allow {value}",
        why=f"its policy says {rule} = {shown}",
        fix="propose a task within the policy, or let the device's owner change it",
        where=rule,
    )


def _within(now: time, span: str) -> bool:
    begin, end = (time.fromisoformat(part) for part in span.split("-"))
    if begin <= end:
        return begin <= now < end
    return now >= begin or now < end
