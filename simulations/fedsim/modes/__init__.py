"""From what clients trained to the next model: exactly, faster, or in plain floating sums."""

from fedsim.modes.rounds import Done, Rounds, State, TaskRounds

__all__ = ["Done", "Rounds", "State", "TaskRounds"]
