"""`fed privacy plan`: of noise, epsilon and rounds two are given, and the third is found.

What is printed was asked of the plan itself, so that a question that does not add up is refused as
the plan is, in its own words.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.errors import ArgumentError, BudgetError
from fedcore.privacy.accounting import Accountant, Epsilon, account
from fedcore.privacy.calibration import rounds_within
from fedcore.privacy.claims import NOT_COVERED, upward
from fedcore.privacy.clipping import Flat
from fedcore.privacy.codec import to_json
from fedcore.privacy.commands.arguments import count, fraction
from fedcore.privacy.commands.files import read_json, write_new
from fedcore.privacy.commands.layout import describe, rows
from fedcore.privacy.noise import CentralNoise, CompactShares, Noise, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import (
    FixedSize,
    Poisson,
    Sampling,
    TruncatedPoisson,
    Uncontrolled,
    rate_of,
)
from fedcore.privacy.units import Adjacency, Unit

__all__ = ["add_plan"]

_ADJACENCIES = {
    "add-remove": Adjacency.ADD_REMOVE,
    "zero-out": Adjacency.ZERO_OUT,
    "replace-one": Adjacency.REPLACE_ONE,
}
_MOST_ROUNDS = 2**36  # that a plan counts
_LEAST_BUDGET = 2.0**-20  # where delta alone covers the cost, and epsilon is 0
_QUICK = 2**20
"""Steps up to which distributions are composed unasked: 10^6 take 1.4 s, 10^7 took 48."""

_TERMS = {
    "poisson": ("rate", "cohort"),
    "fixed": ("cohort",),
    "truncated": ("rate", "cohort", "limit"),
    "none": ("cohort", "participations", "separation"),
}
_SHARES = ("clients", "survivors", "corrupt")


def add_plan(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "plan",
        parents=[common_options()],
        help="find the noise, the epsilon or the rounds that the other two imply",
        description="Give two of --noise, --epsilon and --rounds to find the third, or all three to"
        " see whether they go together. Epsilon is rounded up; noise is an exact fraction.",
        epilog="Ends with 0 for every plan that adds up; the text and standard error say where its "
        "budget ends before its rounds.",
    )
    parser.set_defaults(run=_run)
    who = parser.add_argument_group("who is protected")
    who.add_argument("--unit", choices=[unit.value for unit in Unit])
    who.add_argument("--population", type=count, metavar="N", help="how many units there are")
    who.add_argument("--adjacency", choices=_ADJACENCIES, help="default: one that suits the rest")
    who.add_argument("--delta", type=float, metavar="DELTA", help="default: N^-1.1")
    takes_part = parser.add_argument_group("who takes part in a round")
    takes_part.add_argument("--sampling", choices=_TERMS)
    takes_part.add_argument("--rate", type=fraction, metavar="Q", help="the chance of a unit")
    takes_part.add_argument(
        "--cohort",
        type=count,
        metavar="M",
        help="units expected in a round; sums are divided by it",
    )
    takes_part.add_argument("--limit", type=count, metavar="L", help="most units (truncated)")
    takes_part.add_argument(
        "--participations", type=count, metavar="K", help="most of one unit (none)"
    )
    takes_part.add_argument(
        "--separation",
        type=count,
        metavar="B",
        help="rounds between two of them (none); default: 1",
    )
    budget = parser.add_argument_group("two of these, or three")
    budget.add_argument("--noise", type=fraction, metavar="Z", help="in clipping norms")
    budget.add_argument("--epsilon", type=float, metavar="E")
    budget.add_argument("--rounds", type=count, metavar="T")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--steps", type=count, metavar="S", help="noisy steps in a round (record); default: 1"
    )
    how.add_argument("--noise-by", choices=["server", "clients"], help="default: server")
    how.add_argument(
        "--clients", type=count, metavar="N", help="most clients in a sum (noise by clients)"
    )
    how.add_argument("--survivors", type=count, metavar="U", help="fewest clients in a sum")
    how.add_argument(
        "--corrupt", type=count, metavar="X", help="of these, how many may add no noise"
    )
    how.add_argument(
        "--compact",
        action="store_const",
        const=True,
        help="send 16 or 21 bits a coordinate, not 32 (noise by clients)",
    )
    how.add_argument("--dimension", type=count, metavar="D", help="coordinates of what is summed")
    how.add_argument("--clipping-norm", type=fraction, metavar="C")
    how.add_argument("--grid-steps", type=count, metavar="S", help="in a clipping norm")
    how.add_argument(
        "--accountant",
        choices=["rdp", "pld", "best"],
        help="whose figure is the answer; a ledger goes by rdp unless told otherwise; default: rdp",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="FILE", help="write the plan to a new file")
    files.add_argument("--plan", metavar="FILE", help="read a plan instead of making one")


@dataclass(frozen=True)
class _Answer:
    """A plan, which of its numbers was `found` by which accountant, and what all its rounds cost.

    `affordable`: how many rounds the budget pays for; `ledger`: by whose figure.
    """

    plan: PrivacyPlan
    found: str | None
    accountant: Accountant
    cost: Epsilon
    affordable: int
    ledger: str

    def to_json(self) -> Json:
        """For programs."""
        plan, cost = self.plan, self.cost
        return {
            "plan": plan.to_json(),
            "digest": plan.digest.hex(),
            "found": self.found,
            "found_by": None if self.found is None else self.accountant,
            "noise_multiplier": to_json(plan.noise_multiplier),
            "noise_multiplier_rounded": float(plan.noise_multiplier),
            "variance": to_json(plan.variance),
            "epsilon": cost.value,
            "budget": plan.epsilon,
            "delta": plan.delta,
            "rdp": {"epsilon": cost.rdp, "order": cost.order},
            "pld": {"epsilon": cost.pld, "why_not": cost.without_pld},
            "cross_checked": cost.cross_checked,
            "rounds": {"planned": plan.rounds, "affordable": self.affordable},
            "ledger_accountant": self.ledger,
            "statement": plan.statement(),
            "not_covered": list(NOT_COVERED),
        }

    def to_text(self) -> str:
        """For people."""
        plan, cost, statement = self.plan, self.cost, self.plan.statement()
        noise, shown = plan.noise_multiplier, f"{float(plan.noise_multiplier):.6g}"
        exact = f" ({noise})" if Fraction(shown) != noise and noise.denominator <= 2**20 else ""
        pays = f"the budget pays for {self.affordable}, by {self.ledger.upper()}"
        if self.affordable >= plan.rounds:
            pays = "the budget pays for all of them"
        by_pld = f"none: {cost.without_pld}" if cost.pld is None else upward(cost.pld)
        unit, wire = "clipping norms", ""
        if isinstance(plan.noise, CompactShares):
            unit = f"times {plan.contribution_norm} grid steps"
            wire = f", sent as {plan.wire_dimension} integers of {plan.noise.slot_bits} bits"
        entries = [
            ("noise", f"{shown} {unit}{exact}{self._mark('noise')}"),
            ("epsilon", f"{upward(cost.value)} at delta {plan.delta:.6g}"),
            ("  by RDP", f"{upward(cost.rdp)}, at order {cost.order}"),
            ("  by PLD", by_pld),
            ("budget", f"epsilon {upward(plan.epsilon)}{self._mark('epsilon')}"),
            ("rounds", f"{plan.rounds} planned{self._mark('rounds')}; {pays}"),
            ("a round", describe(plan.event)),
            ("its sum", f"{plan.dimension} coordinates{wire}"),
            ("unit", f"{statement.pop('unit')} of {plan.population}; {statement.pop('adjacency')}"),
            *statement.items(),
            ("ledger", f'Ledger.create(…, plan, accountant="{self.ledger}")'),
            *(("" if place else "not covered", text) for place, text in enumerate(NOT_COVERED)),
            ("plan", plan.digest.hex()),
        ]
        return rows(entries)

    def _mark(self, name: str) -> str:
        by = "the better of both" if self.accountant == "best" else self.accountant.upper()
        return f", found by {by}" if name == self.found else ""


def _run(options: argparse.Namespace) -> int:
    accountant: Accountant = options.accountant or "rdp"
    if options.plan is None:
        plan, found = _made(options, accountant), _asked(options)
    else:
        plan, found = _read(options), None
    answer = _answer(plan, found, accountant)
    console = Console.of(options, command="privacy plan")
    if options.out is not None:
        text = json.dumps(plan.to_json(), sort_keys=True, separators=(",", ":"))
        write_new(options.out, text + "\n")
        console.progress(f"wrote the plan to {options.out}")
    if answer.affordable < plan.rounds:
        console.progress(
            f"the budget ends after {answer.affordable} of {plan.rounds} rounds, "
            f"by {answer.ledger.upper()}"
        )
    console.show(answer.to_json(), answer.to_text())
    return ExitCode.OK


def _answer(plan: PrivacyPlan, found: str | None, accountant: Accountant) -> _Answer:
    spend = plan.spend(plan.reservations)
    steps = plan.steps * sum(spend.values())
    cost = account(
        spend,
        adjacency=plan.adjacency,
        delta=plan.failure,
        accountant="rdp" if accountant == "rdp" and steps > _QUICK else "best",
    )
    affordable, ledger = plan.rounds, "rdp"
    if cost.rdp > plan.epsilon:
        if accountant != "rdp" and cost.pld is not None:
            ledger = "pld"
        if ledger == "rdp" or cost.value > plan.epsilon:
            # Fewer than planned are paid for, so nobody's participations end before the budget.
            affordable = plan.rounds_a_reservation * rounds_within(
                plan.epsilon,
                plan.event,
                adjacency=plan.adjacency,
                delta=plan.failure,
                accountant="pld" if ledger == "pld" else "rdp",
            )
    return _Answer(plan, found, accountant, cost, affordable, ledger)


def _asked(options: argparse.Namespace) -> str | None:
    """Which of the three was not given."""
    return next(
        (name for name in ("noise", "epsilon", "rounds") if getattr(options, name) is None), None
    )


def _made(options: argparse.Namespace, accountant: Accountant) -> PrivacyPlan:
    """The plan that the options ask for, with the number that they leave out."""
    _check(options)
    asked = _asked(options)
    sampling, denominator, adjacency = _sampling(options)
    plan = PrivacyPlan(
        unit=Unit(options.unit),
        adjacency=_ADJACENCIES[options.adjacency] if options.adjacency else adjacency,
        population=options.population,
        sampling=sampling,
        clipping=Flat(Fraction(1) if options.clipping_norm is None else options.clipping_norm),
        noise=_noise(options),
        noise_multiplier=Fraction(1) if asked == "noise" else options.noise,
        denominator=denominator,
        dimension=1 if options.dimension is None else options.dimension,
        rounds=1 if asked == "rounds" else options.rounds,
        epsilon=1.0 if asked == "epsilon" else options.epsilon,
        steps=1 if options.steps is None else options.steps,
        delta=options.delta,
        grid_steps=options.grid_steps,
    )
    if asked == "noise":
        return plan.calibrated(accountant=accountant)
    terms: dict[str, Any] = {"adjacency": plan.adjacency, "delta": plan.failure}
    if asked == "rounds":
        rounds = rounds_within(plan.epsilon, plan.event, **terms, accountant=accountant)
        if not rounds:
            raise BudgetError(
                f"epsilon {plan.epsilon:.6g} does not pay for one round",
                why=f"at delta {plan.failure:.3g} a round costs more with a noise multiplier of "
                f"{float(plan.noise_multiplier):.6g}",
                fix="take more noise, a lower rate or a larger epsilon",
            )
        return replace(plan, rounds=min(rounds, _MOST_ROUNDS))
    if asked == "epsilon":
        cost = account(plan.spend(plan.reservations), **terms, accountant=accountant)
        return replace(plan, epsilon=max(cost.value, _LEAST_BUDGET))
    return plan


def _sampling(options: argparse.Namespace) -> tuple[Sampling, int, Adjacency]:
    """Who takes part, what sums are divided by, and the relation that suits both."""
    population = options.population
    if options.sampling == "none":
        separation = 1 if options.separation is None else options.separation
        whoever = Uncontrolled(separation, options.participations)
        cohort = population if options.cohort is None else options.cohort
        return whoever, cohort, Adjacency.ZERO_OUT
    if options.sampling == "fixed":
        return FixedSize(options.cohort, population), options.cohort, Adjacency.REPLACE_ONE
    rate = rate_of(Fraction(options.cohort, population) if options.rate is None else options.rate)
    expected = max(1, round(population * Poisson(rate).probability))
    if options.sampling == "poisson":
        return Poisson(rate), expected, Adjacency.ADD_REMOVE
    cut = TruncatedPoisson(rate, options.limit, population)
    return cut, min(expected, options.limit), Adjacency.ZERO_OUT


def _noise(options: argparse.Namespace) -> Noise:
    if options.noise_by != "clients":
        return CentralNoise()
    kind = CompactShares if options.compact else NoiseShares
    return kind(clients=options.clients, survivors=options.survivors, corrupt=options.corrupt)


def _check(options: argparse.Namespace) -> None:
    """That each option is there that the others call for, and none that they leave no place for."""
    _require(options, "unit", "population", "sampling")
    missing = [name for name in ("noise", "epsilon", "rounds") if getattr(options, name) is None]
    if len(missing) > 1:
        raise _wrong(
            f"{' and '.join(f'--{name}' for name in missing)} are missing",
            why="of noise, epsilon and rounds two imply the third",
            fix="give two of --noise, --epsilon and --rounds",
        )
    if options.population < 1:
        raise _wrong(
            f"--population {options.population}",
            why="a guarantee is given to somebody",
            fix="give the public number of units",
        )
    kind = options.sampling
    if kind == "none":
        # Where one unit's participations bound its cost, any number of rounds costs the same.
        _require(options, "participations", "rounds", because="without sampling")
    if kind == "fixed":
        _require(options, "cohort", because="with samples of fixed size")
    if kind == "truncated":
        _require(options, "limit", because="with truncated samples")
    if kind in ("poisson", "truncated") and (options.rate is None) is (options.cohort is None):
        raise _wrong(
            "--rate or --cohort, one of the two",
            why="a rate is the cohort over the population",
            fix="give --rate Q or --cohort M",
        )
    unused = {name for names in _TERMS.values() for name in names}.difference(_TERMS[kind])
    _refuse(options, unused, f"--sampling {kind}")
    if options.noise_by == "clients":
        _require(options, *_SHARES, "dimension", because="where clients add the noise")
    else:
        _refuse(options, (*_SHARES, "compact"), "noise by the server")
    if options.out is not None:
        _require(options, "dimension", "clipping_norm", because="in a plan that is written down")


def _read(options: argparse.Namespace) -> PrivacyPlan:
    free = {"plan", "accountant", "format", "verbosity", "debug", "run", "verb"}
    _refuse(options, set(vars(options)) - free, "--plan")
    return PrivacyPlan.from_json(read_json(options.plan, what="plan"))


def _require(options: argparse.Namespace, *names: str, because: str = "in every plan") -> None:
    if missing := [_option(name) for name in names if getattr(options, name) is None]:
        raise _wrong(
            f"{', '.join(missing)} missing",
            why=f"needed {because}",
            fix=f"give {' and '.join(missing)}",
        )


def _refuse(options: argparse.Namespace, names: set[str] | tuple[str, ...], beside: str) -> None:
    if given := sorted(_option(name) for name in names if getattr(options, name) is not None):
        raise _wrong(
            f"{', '.join(given)} beside {beside}",
            why="it would be ignored",
            fix=f"leave out {' and '.join(given)}",
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _wrong(what: str, *, why: str, fix: str) -> ArgumentError:
    return ArgumentError(f"fed privacy plan: {what}", why=why, fix=fix)
