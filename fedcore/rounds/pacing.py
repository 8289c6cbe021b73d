"""When a client that is not needed now should ask again, so that clients neither crowd nor miss."""

from __future__ import annotations

from fedcore.errors import ArgumentError

__all__ = ["retry_window"]

_LARGE = 10


def retry_window(
    population: int, target_rate: float, next_selection_at: int, selection_ms: int, at: int
) -> tuple[int, int]:
    """The shortest and the longest delay, in milliseconds, to draw the next check-in from.

    `population`: clients that are active. `target_rate`: check-ins a second that the server wants;
    a selection that lasts `selection_ms` thus wants rate times length of them. `next_selection_at`
    and `at`, now, are Unix milliseconds.

    A population of more than ten times what a selection wants is spread, so that check-ins come at
    the target rate however many clients there are: the mean delay is population / rate, give or
    take a half. A smaller one is called together, into the first half of the next selection, so
    that enough clients meet. Raises: ArgumentError. Source: Bonawitz et al. 2019, section 2.3.

    >>> retry_window(100_000, 50.0, next_selection_at=0, selection_ms=60_000, at=0)
    (1000000, 3000000)
    >>> retry_window(20, 1.0, next_selection_at=95_000, selection_ms=60_000, at=90_000)
    (5000, 35000)
    """
    if population < 0 or selection_ms < 1 or not 0 < target_rate < float("inf"):
        raise ArgumentError(
            f"population {population}, target_rate {target_rate} and selection_ms {selection_ms}"
            " give no window",
            why="a population cannot be negative, and a rate and a selection are above 0",
            fix="ask with the clients that are active, and the rate and length of the selection",
        )
    if population > _LARGE * target_rate * selection_ms / 1000:
        mean = round(1000 * population / target_rate)
        return mean - mean // 2, mean + mean // 2
    begins = max(next_selection_at - at, 0)
    return begins, begins + selection_ms // 2
