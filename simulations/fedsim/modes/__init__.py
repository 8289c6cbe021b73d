"""From what clients trained to the next model: exactly, faster, or in plain floating sums."""

from fedsim.modes.rounds import TaskRounds
from fedsim.modes.state import Done, Rounds, State, Vector

__all__ = ["Done", "Rounds", "State", "TaskRounds", "Vector"]
