"""Errors of arrays, programs, data and training on one machine."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "ArgumentError",
    "AxisError",
    "CapacityError",
    "CheckpointError",
    "DataFormatError",
    "DatasetError",
    "DerivativeError",
    "DeviceError",
    "DivergenceError",
    "DtypeError",
    "InstallError",
    "MutationError",
    "ShapeError",
    "TraceError",
    "TreeError",
    "TruncatedFileError",
]


class InstallError(FedcoreError, ImportError):
    """An optional dependency is not installed."""

    code = "FED-1001"


class ShapeError(FedcoreError, ValueError):
    """Array shapes do not fit an operation."""

    code = "FED-1101"


class DtypeError(FedcoreError, TypeError):
    """An array has a dtype the operation does not take."""

    code = "FED-1102"


class AxisError(FedcoreError, IndexError):
    """An axis or an index is out of range."""

    code = "FED-1103"


class DeviceError(FedcoreError, RuntimeError):
    """Arrays of different devices meet, or a device is missing."""

    code = "FED-1104"


class MutationError(FedcoreError, TypeError):
    """A tensor, or a module after its `__init__`, was assigned to in place."""

    code = "FED-1105"


class TraceError(FedcoreError, RuntimeError):
    """A program cannot be recorded so that its replay would be right."""

    code = "FED-1106"


class DerivativeError(FedcoreError, ValueError):
    """A derivative does not exist, or was asked of something that is not a scalar."""

    code = "FED-1107"


class TreeError(FedcoreError, ValueError):
    """Two pytrees differ in structure."""

    code = "FED-1108"


class ArgumentError(FedcoreError, ValueError):
    """An option has a value outside its range."""

    code = "FED-1109"


class CapacityError(FedcoreError, MemoryError):
    """An array does not fit into memory."""

    code = "FED-1110"


class DataFormatError(FedcoreError, ValueError):
    """A file is not of the format it should be."""

    code = "FED-1201"


class TruncatedFileError(DataFormatError):
    """A file ends before its header says it should."""

    code = "FED-1202"


class DatasetError(FedcoreError, ValueError):
    """The parts of a dataset do not fit together, or it is empty."""

    code = "FED-1203"


class CheckpointError(FedcoreError, ValueError):
    """A checkpoint does not fit the model it is loaded into."""

    code = "FED-1204"


class DivergenceError(FedcoreError, ArithmeticError):
    """Training has left the region where its loss is finite."""

    code = "FED-1301"
