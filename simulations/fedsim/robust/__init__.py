"""Robust aggregation: what becomes of updates of which a few are wrong, in whatever way."""

from fedsim.robust.choices import ROBUST, RobustChoice
from fedsim.robust.grouped import Grouped
from fedsim.robust.rule import Rule

__all__ = ["ROBUST", "Grouped", "RobustChoice", "Rule"]
