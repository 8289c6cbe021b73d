"""Models travel as safetensors files of one canonical form, read and written with NumPy alone.

Equal content gives equal bytes, so a model's digest is its name. Nothing in a file is executed, and
a reader that knows the model it expects knows every byte of the header but the few texts in it: it
compares, and allocates nothing that the file asks for.

    8 bytes   length of the header, little-endian
    header    {"__metadata__":{texts, sorted},
              "name":{"dtype":"F32","shape":[…],"data_offsets":[…]}, … in the vector's order}
              without space between, but padded with spaces to a multiple of 8
    values    the flat vector, float32, little-endian

Source: the safetensors format (github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DataFormatError,
    ShapeError,
    TruncatedFileError,
)

if TYPE_CHECKING:
    from fedcore.autograd.ravel import Spec

__all__ = [
    "Model",
    "check_model",
    "copy_model",
    "encode_model",
    "model_bytes",
    "model_head",
    "read_model",
]

_MOST_HEADER: Final = 1 << 20
_MOST_TENSORS: Final = 4_096
_MOST_TEXTS: Final = 32
_MOST_TEXT_BYTES: Final = 16 << 10
_PIECE: Final = 1 << 20
_RESERVED: Final = "__metadata__"
_OPENING: Final = b'{"__metadata__":'
# A flat object of texts and nothing else, so that what is parsed is small when it is hostile.
_TEXT: Final = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+"'
_PAIR: Final = rb"%b:%b" % (_TEXT, _TEXT)
_TEXTS: Final = re.compile(rb"\{(?:%b(?:,%b){0,%d})?\}" % (_PAIR, _PAIR, _MOST_TEXTS - 1))
_TENSOR: Final = re.compile(
    rb'"(?P<name>[^"]{0,256})":\{"dtype":"(?P<dtype>\w{1,8})","shape":\[(?P<shape>[\d,]{0,99})\]'
)


class Model(NamedTuple):
    """What a model file holds: the flat vector (D,) float32, and texts such as round and parent."""

    vector: NDArray[np.float32]
    metadata: dict[str, str]


def model_bytes(spec: Spec, metadata: Mapping[str, str]) -> int:
    """The size of the file of such a model. Raises: as `encode_model`."""
    return 8 + len(_header(spec, metadata)) + 4 * spec.size


def encode_model(
    vector: NDArray[np.float32], spec: Spec, *, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The file of a model, in pieces of at most 1 MiB that are views of `vector`, (D,) float32.

    Raises: ShapeError if the vector is not one of `spec`; ArgumentError for more than 4,096
    parameters, none, more than 32 texts or 16 KiB of them.

    >>> from fedcore.autograd.ravel import ravel
    >>> from fedcore.tensor.tensor import tensor
    >>> theta, rebuild = ravel({"w": tensor([[1.0, 2.0]])})
    >>> file = b"".join(encode_model(theta.numpy(), rebuild.spec, metadata={"round": "7"}))
    >>> file[8:].split(b"}")[0], len(file)
    (b'{"__metadata__":{"round":"7"', 104)
    """
    if vector.shape != (spec.size,) or vector.dtype != np.float32 or spec.dtype != np.float32:
        raise ShapeError(
            f"a vector {vector.shape} of {vector.dtype} is not the model's {spec.size} parameters",
            why="a model file holds the flat float32 vector that ravel makes",
            fix="pass ravel(model)[0].numpy() and its spec",
        )
    head = model_head(spec, metadata)
    return _pieces(head, np.ascontiguousarray(vector, dtype="<f4"))


def model_head(spec: Spec, metadata: Mapping[str, str]) -> bytes:
    """All of a model's file before its values. Raises: as `encode_model`."""
    header = _header(spec, metadata)
    return len(header).to_bytes(8, "little") + header


def read_model(file: BinaryIO, spec: Spec, *, mapped: bool = False) -> Model:
    """Read a model from an open file, all of whose header has to be that of the model of `spec`.

    `mapped`: the vector is a read-only view of the file on the disk, which then must not change;
    else a new array. Raises: DataFormatError for what is no model file, TruncatedFileError for one
    that ends early, CheckpointError for one of another model; before the vector is allocated.
    """
    metadata = check_model(file, spec, size=file.seek(0, os.SEEK_END))
    begin, expected = file.tell(), 4 * spec.size
    if mapped:
        view = np.memmap(file, "<f4", "r", offset=begin, shape=(spec.size,))
        return Model(view.view(np.ndarray), metadata)
    vector = np.empty(spec.size, "<f4")
    values = vector.view(np.uint8).data
    for start in range(0, expected, _PIECE):
        values[start : start + _PIECE] = _read(file, min(_PIECE, expected - start))
    return Model(vector, metadata)


def check_model(file: BinaryIO, spec: Spec, *, size: int) -> dict[str, str]:
    """The texts of a model's file, which is the first `size` bytes of `file`.

    Reads the header alone, and leaves the file where the values begin. Raises: as `read_model`.
    """
    file.seek(0)
    header = _read_header(file, size)
    metadata = _parsed(header, spec)
    whole = 8 + len(header) + 4 * spec.size
    if size < whole:
        raise _truncated(size, whole)
    if size > whole:
        raise _broken(f"{size - whole} bytes follow its values")
    return metadata


def copy_model(
    file: BinaryIO, spec: Spec, *, size: int, metadata: Mapping[str, str]
) -> Iterator[bytes]:
    """The file of the same model with other texts, in pieces of at most 1 MiB or the header.

    `size`: of the model's file, with which `file` begins. Raises: as `read_model` and
    `encode_model`, before the first piece; DataFormatError at a value that is no finite number.
    """
    head = model_head(spec, metadata)
    check_model(file, spec, size=size)
    return _copied(head, file, 4 * spec.size)


def _copied(head: bytes, file: BinaryIO, left: int) -> Iterator[bytes]:
    yield head
    while left:
        piece = _read(file, min(_PIECE, left))
        left -= len(piece)
        if not np.isfinite(np.frombuffer(piece, "<f4")).all():
            raise DataFormatError(
                "a model has values that are NaN or infinite",
                why="no training leads back from there to finite numbers",
                fix="hand in a model whose values numpy.isfinite confirms",
            )
        yield piece


def _pieces(head: bytes, vector: NDArray[Any]) -> Iterator[bytes | memoryview]:
    yield head
    values = vector.view(np.uint8).data
    for begin in range(0, len(values), _PIECE):
        yield values[begin : begin + _PIECE]


def _header(spec: Spec, metadata: Mapping[str, str]) -> bytes:
    try:
        texts = _encode(dict(sorted(metadata.items())))
    except (TypeError, ValueError):  # it is of no JSON type, or has no UTF-8 form
        texts = b""
    if (
        len(metadata) > _MOST_TEXTS
        or len(texts) > _MOST_TEXT_BYTES
        or not _TEXTS.fullmatch(texts)
        or not all(isinstance(name, str) for name in metadata)
    ):
        raise ArgumentError(
            f"{len(metadata)} entries cannot be the metadata of a model",
            why=f"they are texts by name, at most {_MOST_TEXTS} in {_MOST_TEXT_BYTES} bytes",
            fix="keep what is longer, or no text, outside the model",
        )
    header = _OPENING + texts + _tensors(spec)
    header += b" " * (-len(header) % 8)
    if len(header) > _MOST_HEADER:
        raise ArgumentError(
            f"a model's header of {len(header)} bytes is too long",
            why=f"a reader takes at most {_MOST_HEADER}",
            fix="shorten the names of the parameters",
        )
    return header


def _tensors(spec: Spec) -> bytes:
    """All of a header behind its metadata, save for the padding."""
    named = _RESERVED not in {entry.path for entry in spec}
    if not 1 <= len(spec.entries) <= _MOST_TENSORS or spec.size < 1 or not named:
        raise ArgumentError(
            f"a model of {len(spec.entries)} arrays with {spec.size} parameters cannot be a file",
            why=f"a model file holds 1 … {_MOST_TENSORS} arrays, not all of them empty, and none "
            f"that is called {_RESERVED}",
            fix="join parameters into larger arrays, or give them other names",
        )
    parts = []
    for entry in spec:
        offsets = [4 * entry.offset, 4 * (entry.offset + entry.size)]
        said = {"dtype": "F32", "shape": list(entry.shape), "data_offsets": offsets}
        parts.append(b",%b:%b" % (_encode(entry.path), _encode(said)))
    return b"".join(parts) + b"}"


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _read_header(file: BinaryIO, size: int) -> bytes:
    if size < 8:
        raise _truncated(size, 8)
    length = int.from_bytes(_read(file, 8), "little")
    if not 2 <= length <= _MOST_HEADER or length % 8:
        raise _broken(f"its header would have {length} bytes")
    if 8 + length > size:
        raise _truncated(size, 8 + length)
    return _read(file, length)


def _parsed(header: bytes, spec: Spec) -> dict[str, str]:
    """The texts of a header that is that of `spec` in every other byte."""
    tensors, body = _tensors(spec), header.rstrip(b" ")
    if not body.startswith(_OPENING):
        raise _broken("its header does not begin with its metadata")
    texts = _TEXTS.match(body, len(_OPENING), len(_OPENING) + _MOST_TEXT_BYTES)
    if texts is None:
        raise _broken(f"its metadata are not at most {_MOST_TEXTS} short texts by name")
    if body[texts.end() :] != tensors:
        raise CheckpointError(
            "a model file is not of the expected model",
            why=_difference(body[texts.end() :], tensors),
            fix="use the file of this task, with the model that the task describes",
        )
    try:
        found = dict(sorted(json.loads(texts[0]).items()))
        canonical = _header(spec, found) == header
    except ValueError:  # a text that is no Unicode, or breaks off within an escape
        canonical = False
    if not canonical:
        raise _broken("its header is not in the canonical form")
    return found


def _difference(found: bytes, expected: bytes) -> str:
    """How the tensors of a header first differ from those of the model, in words.

    Their order comes last: whoever has other arrays has them at other places, too.
    """
    given, wanted = (
        {tensor["name"]: tensor for tensor in _TENSOR.finditer(part)} for part in (found, expected)
    )
    missing = [_named(wanted[name]) for name in wanted if name not in given]
    extra = [_named(given[name]) for name in given if name not in wanted]
    if missing and extra:
        return f"the model's {missing[0]} is missing, and {extra[0]} is none of its arrays"
    if missing:
        return f"the model's {missing[0]} is missing"
    if extra:
        return f"{extra[0]} is none of the model's arrays"
    for name, tensor in wanted.items():
        if _kind(given[name]) != _kind(tensor):
            return f"its {_named(given[name])} is {_kind(tensor)} in the model"
    return "its arrays are those of the model, and lie in another order or at other places"


def _named(tensor: re.Match[bytes]) -> str:
    return f"array {tensor['name'][:80].decode('utf-8', 'replace')!r} {_kind(tensor)}"


def _kind(tensor: re.Match[bytes]) -> str:
    return f"{tensor['dtype'].decode('ascii', 'replace')} [{tensor['shape'].decode()}]"


def _broken(reason: str) -> DataFormatError:
    return DataFormatError(
        "a file is no model file",
        why=reason,
        fix="download it again; a model of elsewhere has to be imported first",
    )


def _truncated(size: int, expected: int) -> TruncatedFileError:
    return TruncatedFileError(
        "a model file ends early",
        why=f"it has {size} bytes of at least {expected}",
        fix="download it again",
    )


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:  # it was cut since its size was asked
        raise _truncated(len(data), size)
    return data
