"""From one dataset to many clients: who has which rows, and how unlike they are."""

from fedsim.partition.partition import Partition

__all__ = ["Partition"]
