"""What a device does, what it has cost, and what it has told: as data, and as text for its owner.

It is read while another process takes part, and asks no server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from fedclient.assignment import OpenAssignment
from fedclient.identity import DeviceIdentity, Membership
from fedclient.policy import Policy
from fedclient.privacy_budget import Guarantee, TaskCost, spent_in_all
from fedclient.state import Charge, State
from fedcore.console import Json, plain

__all__ = ["described", "status_of"]

_CHARGES = 20


def status_of(folder: Path, *, policy: Policy | None = None) -> tuple[Json, str]:
    """The status of the member in `folder`. `policy`: against which is said what is left.

    Raises: ClientStateError if it is none.
    """
    identity = DeviceIdentity(folder / "identity")
    with closing(State(folder, key=identity.device_key, read_only=True)) as state:
        working, charges = state.assignment, state.charges(limit=_CHARGES)
        costs = state.privacy_costs()
    left = None if policy is None else policy.left_of_totals(costs)
    member = described(identity.membership)
    data: dict[str, Json] = {
        **member,
        "working_on": _of_assignment(working),
        "charges": [_of_charge(charge) for charge in charges],
        "privacy": _of_privacy(costs, left),
    }
    lines = [
        f"{member['name']} of {member['server']}, certificate until {member['certificate_until']}"
    ]
    if working is not None:
        attempt = f"{working.round + 1}.{working.attempt}"
        lines.append(f"  works on {working.task_id} round {attempt}")
    lines += [_line_of(charge) for charge in charges]
    lines += _lines_of_privacy(costs, left)
    return data, "\n".join(map(plain, lines))


def described(membership: Membership) -> dict[str, str]:
    """What a device is called where."""
    return {
        "name": membership.name,
        "client_id": membership.client_id.hex(),
        "tenant": membership.tenant,
        "server": membership.address,
        "certificate_until": _time(membership.ends),
    }


def _of_assignment(assignment: OpenAssignment | None) -> Json:
    if assignment is None:
        return None
    return {
        "task": assignment.task_id,
        "round": assignment.round,
        "attempt": assignment.attempt,
    }


def _of_charge(charge: Charge) -> Json:
    return {
        "task": charge.task,
        "round": charge.round,
        "attempt": charge.attempt,
        "at": _time(charge.at_ms / 1000),
        "outcome": charge.outcome or "open",
        "update_given": charge.given,
        "bytes_up": charge.bytes_up,
        "bytes_down": charge.bytes_down,
        "seconds": charge.seconds,
        "joules": charge.energy.joules,
        "energy": "measured" if charge.energy.measured else "estimated",
        "warning": charge.warning,
        "reason": charge.reason,
    }


def _line_of(charge: Charge) -> str:
    energy = "measured" if charge.energy.measured else "estimated"
    outcome = (charge.outcome or "open") + (f" ({charge.reason})" if charge.reason else "")
    line = (
        f"  {charge.task} round {charge.round + 1}.{charge.attempt}: {outcome}, "
        f"up {charge.bytes_up:,} down {charge.bytes_down:,} bytes, {charge.seconds:.1f} s, "
        f"{charge.energy.joules:.0f} J {energy}"
    )
    return f"{line}; {charge.warning}" if charge.warning else line


def _of_privacy(costs: Sequence[TaskCost], left: Guarantee | None) -> Json:
    spent = spent_in_all(costs)
    return {
        "tasks": [
            {
                "task": cost.task,
                "task_digest": cost.task_digest.hex(),
                "times": cost.times,
                "epsilon": cost.spent.epsilon,
                "delta": cost.spent.delta,
            }
            for cost in costs
        ],
        "epsilon": spent.epsilon,
        "delta": spent.delta,
        "epsilon_left": None if left is None else left.epsilon,
        "delta_left": None if left is None else left.delta,
    }


def _lines_of_privacy(costs: Sequence[TaskCost], left: Guarantee | None) -> list[str]:
    lines = [f"  privacy of {cost.task}: {_told(cost)}" for cost in costs]
    total = spent_in_all(costs)
    if len(costs) > 1:
        lines.append(f"  privacy of all tasks: {_values(total)}")
    if left is not None:
        unlimited = math.isinf(left.epsilon) and math.isinf(left.delta)
        said = "the policy sets no total" if unlimited else _values(left)
        lines.append(f"  privacy left for further tasks: {said}")
    return lines


def _told(cost: TaskCost) -> str:
    if cost.guarantee is None:
        return "without bound: it promises none, or none is on record"
    return _values(cost.spent) + (f", as {cost.times} runs" if cost.times > 1 else "")


def _values(value: Guarantee) -> str:
    return f"epsilon {value.epsilon:.4g}, delta {value.delta:.4g}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
