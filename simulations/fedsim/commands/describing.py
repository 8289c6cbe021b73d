"""What a scenario will simulate, before it does: of whom, how, under which promise."""

from __future__ import annotations

from collections.abc import Iterator

from fedcore.console import Json
from fedcore.errors import DatasetError
from fedcore.privacy.commands.layout import rows
from fedcore.privacy.statement import statement_of
from fedsim.clock import Forecast, forecast
from fedsim.modes.foreseen import work_of
from fedsim.modes.rounds import terms_of
from fedsim.partition import Heterogeneity
from fedsim.records import Mode
from fedsim.run.wording import size
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["Description"]


class Description:
    """A scenario and its world, as data and in words."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._scenario, self._world = scenario, world
        self._unlike = _heterogeneity(world)
        self._forecast = _forecast(scenario, world)

    @property
    def data(self) -> dict[str, Json]:
        """For scripts."""
        scenario, task = self._scenario, self._scenario.task
        study = scenario.study
        return {
            "scenario": scenario.head.name,
            "scenario_digest": scenario.digest.hex(),
            "task": task.name,
            "task_digest": task.digest.hex(),
            "dimension": task.dimension,
            "rounds": task.rounds.count,
            "cohort": {
                "selected": task.cohort.select,
                "goal": task.cohort.goal,
                "minimum": task.cohort.minimum,
            },
            "algorithm": task.algorithm.name if study.algorithm is None else study.algorithm.name,
            "robust": None if study.robust is None else study.robust.name,
            "compression": None if study.compression is None else study.compression.name,
            "mode": scenario.mode.value,
            "label": scenario.mode.words,
            "clients": len(self._world.population),
            "filled": self._world.source.filled,
            "devices": dict(self._world.devices.counts()),
            "heterogeneity": None if self._unlike is None else self._unlike.to_json(),
            "privacy": self._privacy,
            "forecast": self._expected,
        }

    @property
    def words(self) -> str:
        """For people, a block of lines."""
        scenario, task = self._scenario, self._scenario.task
        cohort, count = task.cohort, task.rounds.count
        who = f"{cohort.select} of {len(self._world.population)} clients a round, at least "
        who += f"{cohort.minimum}"
        if scenario.clock.schedule == "buffered":
            who = f"{scenario.clock.concurrency} clients at a time, {scenario.clock.buffer} a step"
        return rows(
            [
                ("scenario", f"{scenario.head.name}, digest {scenario.digest.hex()}"),
                ("task", f"{task.name}, digest {task.digest.hex()}"),
                (
                    "",
                    f"{task.dimension:,} parameters, {count} rounds, {who}; "
                    f"each update {size(task.layout.upload_bytes)}",
                ),
                ("algorithm", self._methods),
                ("clients", self._people),
                ("mode", scenario.mode.words),
                ("privacy", self._promise),
                ("devices", self._devices),
                *(("warning", text) for text in self.warnings),
            ]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a researcher should know before the first round."""
        expected = () if self._forecast is None else self._forecast.warnings
        return (*expected, *self._unused())

    def _unused(self) -> Iterator[str]:
        """Which devices are described, and are nobody's."""
        counts = self._world.devices.counts()
        if idle := [name for name, count in counts.items() if not count]:
            yield (
                f"no client has a device of the class {' or '.join(idle)}: raise its share in "
                f"devices.classes, or simulate more than {len(self._world.population):,} clients"
            )

    @property
    def _methods(self) -> str:
        task, study = self._scenario.task, self._scenario.study
        said = [task.algorithm.name if study.algorithm is None else study.algorithm.name]
        if study.robust is not None:
            said.append(f"robust rule {study.robust.name}")
        if study.compression is not None:
            said.append(f"compression {study.compression.name}")
        secure = None if self._scenario.mode is Mode.PLAIN else task.secure_aggregation
        said.append("no secure aggregation" if secure is None else f"{secure.profile} aggregation")
        return ", ".join(said)

    @property
    def _people(self) -> str:
        people, unlike = self._world.population, self._unlike
        sizes = people.sizes()
        said = f"{len(sizes)} with {sizes.min()} to {sizes.max()} rows, {sizes.sum():,} together"
        if self._scenario.head.evaluate_clients_every:
            said += f"; {len(people.measured)} are measured on their {people.own_rows.words}"
        if filled := self._world.source.filled:
            said += f"; {filled:,} features were missing and are filled with their column's mean"
        if unlike is None:
            return said
        return (
            f"{said}; sizes' Gini {unlike.size_gini:.2f}; {unlike.classes_mean:.1f} of "
            f"{unlike.classes} classes each, whose shares diverge by "
            f"{unlike.label_divergence_mean:.3f} bits of 1, at most "
            f"{unlike.label_divergence_max:.3f}"
        )

    @property
    def _privacy(self) -> Json:
        plan = self._scenario.task.plan
        if plan is None:
            return None
        return {
            "epsilon": float(plan.epsilon),
            "delta": float(plan.delta or 0.0),
            "noise_multiplier": float(plan.noise_multiplier),
            "clipping_norm": float(plan.clipping_norm),
            **statement_of(plan),
        }

    @property
    def _promise(self) -> str:
        plan = self._scenario.task.plan
        if plan is None:
            return "none is promised"
        said = statement_of(plan)
        return (
            f"epsilon {float(plan.epsilon):g}, delta {float(plan.delta or 0.0):.3g} for "
            f"{said['unit']}; noise multiplier {float(plan.noise_multiplier):.4g}; {said['trust']}"
        )

    @property
    def _expected(self) -> Json:
        found = self._forecast
        if found is None:
            return None
        return {
            "reports": found.reports,
            "needed": found.needed,
            "in_time": found.in_time,
            "kept": found.kept,
            "warnings": list(found.warnings),
        }

    @property
    def _devices(self) -> str:
        return "; ".join(self._device_words())

    def _device_words(self) -> Iterator[str]:
        spec = self._scenario.devices
        if spec.classes:
            counts = self._world.devices.counts().items()
            yield f"classes {', '.join(f'{name} {count:,}' for name, count in counts)}"
        elif spec == type(spec)(availability=spec.availability):
            yield "ideal: no time passes, none is lost"
        else:
            yield "one class"
        if spec.availability.name != "always":
            yield f"there by a {spec.availability.name}"
        if (found := self._forecast) is not None:
            yield f"{found.reports:.1f} reports a round expected, {found.needed} needed"


def _heterogeneity(world: World) -> Heterogeneity | None:
    """How unlike clients are; None where labels are of no kind that is counted."""
    try:
        return world.report()
    except DatasetError:
        return None


def _forecast(scenario: Scenario, world: World) -> Forecast | None:
    """What to expect of a round; None where there are none."""
    if scenario.clock.schedule != "synchronous":
        return None
    return forecast(terms_of(scenario, world), world.devices, work_of(scenario, world))
