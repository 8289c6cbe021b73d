"""Checkpoints: named arrays and a few texts in one safetensors file, written whole or not at all.

A file appears under its name only when all of it is on the disk, so a crash leaves the previous
checkpoint. Equal content gives equal bytes. Loading compares names, shapes and dtypes with what the
model expects before it reads a single value, and nothing in a file is ever executed.

Source: the safetensors format (github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DataFormatError,
    DtypeError,
    FedcoreError,
    InstallError,
    user_line,
)
from fedcore.tensor.backend import is_array, to_host
from fedcore.tensor.tensor import Tensor

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ArrayPlace", "Checkpoint", "array_places", "load_checkpoint", "save_checkpoint"]

_DTYPES = {
    code: np.dtype(name)
    for code, name in zip(
        ("BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "F16", "F32", "F64"),
        ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"),
        strict=True,
    )
}
# The library writes metadata entries in random order; one entry of sorted JSON keeps bytes equal.
_METADATA_KEY = "fedcore"
_RESERVED_NAME = "__metadata__"
_LISTED = 8


class Checkpoint(NamedTuple):
    """What a checkpoint file holds: arrays by name, and texts by name."""

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str]


class ArrayPlace(NamedTuple):
    """One array of a checkpoint: what it is, and at which byte of the file it begins."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int


def save_checkpoint(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any] | Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `arrays` and `metadata` to `path`, replacing what is there in one step.

    The arrays of a model are `model.state_dict()`. A leading `~` of the path is the home folder.
    On return the file and its name are on the disk; on an error `path` is as it was. The file can
    be read by its owner alone.
    Raises: InstallError without safetensors; DtypeError for an array that is not of numbers or
    bools; ArgumentError for what is no mapping, and for a name or metadata that is no text;
    CheckpointError if the file cannot be written.
    """
    library = _safetensors()
    if not isinstance(arrays, Mapping):
        raise ArgumentError(
            f"save_checkpoint: the arrays are a {type(arrays).__name__}",
            where=user_line(),
            why="a checkpoint holds arrays by name",
            fix="pass a mapping; that of a model is model.state_dict()",
        )
    ready = {_checked_name(name): _checked_array(name, array) for name, array in arrays.items()}
    texts = {_METADATA_KEY: _encode_metadata(metadata or {})}
    temporary = ""
    try:
        target = Path(os.path.expanduser(os.fspath(path)))
        handle, temporary = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}-", suffix=".tmp"
        )
        os.close(handle)
        library.numpy.save_file(ready, temporary, metadata=texts)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except (OSError, TypeError, ValueError, library.SafetensorError) as error:
        raise CheckpointError(
            f"cannot write the checkpoint {os.path.basename(str(path))}",
            where=str(path),
            why=str(error),
            fix="pass a path in a folder that exists, is writable and has room",
        ) from error
    finally:
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    expected: Mapping[str, tuple[tuple[int, ...], DTypeLike]] | None = None,
    finite: bool = False,
) -> Checkpoint:
    """Read a checkpoint, first checking it against `expected`: name -> (shape, dtype).

    `finite` asks that no floating array holds NaN or infinity.
    Raises: InstallError without safetensors; DataFormatError if the file is missing, is not an
    intact safetensors file or names something twice; CheckpointError listing every array that is
    missing, unexpected, of another shape or dtype, or not finite.
    """
    with _opened(path) as (file, _):
        found = {name: _declared(path, name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
        if expected is not None:
            _check_declared(path, found, expected)
        metadata = _decode_metadata(path, file.metadata() or {})
        arrays = {name: file.get_tensor(name) for name in found}
    if finite:
        _check_finite(path, arrays)
    return Checkpoint(arrays, metadata)


def array_places(path: str | os.PathLike[str]) -> dict[str, ArrayPlace]:
    """Where each array of a checkpoint lies in its file; the values themselves are not read.

    Raises: InstallError without safetensors; DataFormatError as `load_checkpoint` does.
    """
    with _opened(path) as (file, places):
        return {
            name: ArrayPlace(*_declared(path, name, file.get_slice(name)), places[name])
            for name in file.keys()  # noqa: SIM118
        }


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, dict[str, int]]]:
    """The library's view of a checkpoint, and at which byte of the file each array begins."""
    library = _safetensors()
    try:
        file_name = os.path.expanduser(os.fspath(path))
        # Tested first: the library maps the file into memory and would block on a named pipe.
        if not stat.S_ISREG(os.stat(file_name).st_mode):
            raise _broken(path, "it is not a regular file")
        with library.safe_open(file_name, framework="numpy") as file:
            yield file, _places(path, file_name)
    except FedcoreError:
        raise
    except (OSError, TypeError, ValueError, library.SafetensorError) as error:
        raise _broken(path, str(error)) from None


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise InstallError(
            "checkpoints: safetensors is not installed",
            why="checkpoint files are written and read by that package",
            fix="pip install safetensors, or in a checkout: pip install -e '.[demo]'",
        ) from error
    return safetensors


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name or name == _RESERVED_NAME or not _is_utf8(name):
        raise ArgumentError(
            f"save_checkpoint: an array is named {name!r:.80}",
            why=f"a name is a non-empty text other than {_RESERVED_NAME}",
            fix="name arrays by their path in the model, such as layers.0.weight",
        )
    return name


def _checked_array(name: str, array: object) -> NDArray[Any]:
    if isinstance(array, Tensor):
        array = array.numpy()
    elif is_array(array):
        array = to_host(array)
    if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in _DTYPES.values():
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DtypeError(
            f"save_checkpoint: {name!r} is {found}",
            why="the format holds bools, integers and floats of at most 64 bits",
            fix="convert with numpy.asarray(values, dtype=numpy.float32)",
        )
    # The library writes the memory behind an array and not its elements, so a transposed or sliced
    # view would be stored as something else without a word.
    return np.asarray(array, order="C", dtype=array.dtype.newbyteorder("="))


def _encode_metadata(metadata: Mapping[str, str]) -> str:
    for pair in metadata.items():
        if not all(isinstance(text, str) and _is_utf8(text) for text in pair):
            raise ArgumentError(
                f"save_checkpoint: metadata {pair!r:.80}",
                why="metadata are texts by name",
                fix="convert the value with str() or json.dumps()",
            )
    return json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False)


def _is_utf8(text: str) -> bool:
    """Whether the text has a UTF-8 form; one with a lone surrogate has none."""
    return text.encode("utf-8", "replace").decode("utf-8") == text


def _decode_metadata(path: str | os.PathLike[str], stored: Mapping[str, str]) -> dict[str, str]:
    if _METADATA_KEY not in stored:
        return dict(sorted(stored.items()))
    try:
        texts = json.loads(stored[_METADATA_KEY], object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _broken(path, f"its metadata entry {_METADATA_KEY!r} is no JSON object of texts")
    return texts


def _places(path: str | os.PathLike[str], file_name: str) -> dict[str, int]:
    """At which byte of a file, whose header the library has checked, each array begins.

    Refuses a header that names anything twice, which the format forbids and the library takes: of
    two entries it keeps the last and another reader the first, so that one file would be two.
    """
    with open(file_name, "rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        values = file.tell()
    try:
        entries = json.loads(header, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    entries.pop(_RESERVED_NAME, None)
    return {name: values + entry["data_offsets"][0] for name, entry in entries.items()}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names all differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise ValueError(f"its header has two entries {twice!r:.80}")
    return found


def _declared(
    path: str | os.PathLike[str], name: str, part: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    code = part.get_dtype()
    if code not in _DTYPES:
        raise _broken(path, f"array {name!r:.80} is {code}, which NumPy does not have")
    return tuple(part.get_shape()), _DTYPES[code]


def _check_declared(
    path: str | os.PathLike[str],
    found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    expected: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
) -> None:
    wanted = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in expected.items()}
    differ = [
        f"{name} is {found[name][1]} {found[name][0]}, expected {wanted[name][1]} {wanted[name][0]}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    problems = [
        *_listed("missing", sorted(wanted.keys() - found.keys())),
        *_listed("unexpected", sorted(found.keys() - wanted.keys())),
        *_listed("mismatched", differ),
    ]
    if problems:
        raise _misfit(path, problems, "load it into the model that it was saved from")


def _check_finite(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    bad = [
        name
        for name, array in sorted(arrays.items())
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if bad:
        raise _misfit(path, _listed("not finite", bad), "go back to an earlier checkpoint")


def _listed(kind: str, items: list[str]) -> list[str]:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return [f"{kind}: {', '.join(items[:_LISTED])}{more}"] if items else []


def _misfit(path: str | os.PathLike[str], problems: list[str], fix: str) -> CheckpointError:
    what = f"checkpoint {Path(path).name} does not fit"
    return CheckpointError(what, where=str(path), why="; ".join(problems), fix=fix)


def _broken(path: str | os.PathLike[str], reason: str) -> DataFormatError:
    return DataFormatError(
        f"cannot read the checkpoint {os.path.basename(str(path))}",
        where=str(path),
        why=reason,
        fix="pass an intact safetensors file; go back to an earlier checkpoint if it is damaged",
    )


def _sync_directory(folder: Path) -> None:
    """Make the rename durable; only POSIX systems can, and need to, sync a directory."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
