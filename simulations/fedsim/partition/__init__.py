"""From one dataset to many clients: who has which rows, and how unlike they are.

Partitioners stand by name in their modules: `by_label`, `by_size`, `by_id` and `by_feature`; a
scenario chooses one by a `PartitionSpec`, and how clients see their features by a `ShiftSpec`.
"""

from fedsim.partition.choices import PARTITIONERS, SHIFTS, PartitionSpec, ShiftSpec
from fedsim.partition.held_out import HeldOutRows, hold_out, rows_of_names
from fedsim.partition.heterogeneity import Heterogeneity, heterogeneity
from fedsim.partition.partition import Partition

__all__ = [
    "PARTITIONERS",
    "SHIFTS",
    "HeldOutRows",
    "Heterogeneity",
    "Partition",
    "PartitionSpec",
    "ShiftSpec",
    "heterogeneity",
    "hold_out",
    "rows_of_names",
]
