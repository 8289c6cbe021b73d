"""A user's own arrays, in the format in which NumPy saves several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset, load_npz
from fedcore.errors import DataFormatError
from fedsim.sources.files import place_of
from fedsim.sources.held_out import Measured
from fedsim.sources.source import Source

__all__ = ["Npz"]


@dataclass(frozen=True, kw_only=True)
class Npz(Measured):
    """The arrays `x` and `y`, and if they are there `ids`, `x_test`, `y_test` and `ids_test`.

    x (N, ...) becomes float32, or with `codes` stays integers, for an embedding; images are
    channels last, (N, H, W, C). y: integers or bools are classes, (N,) or (N, length) int64, from
    0; texts are classes in sorted order; real numbers are a regression, float32, one axis made
    (N, 1). ids (N,): integers or texts. Rows are held out unless there are `x_test` and `y_test`.
    """

    path: str
    codes: bool = False

    def load(self, base: Path) -> Source:
        """The arrays in the file `path`."""
        path = place_of(base, self.path)
        arrays = load_npz(path)
        train = self._data(arrays, "", path)
        if not {"x_test", "y_test"} & arrays.keys():
            return self.finished(_labelled(train, None, arrays.get("ids"), None, path))
        test = self._data(arrays, "_test", path)
        ids, test_ids = arrays.get("ids"), arrays.get("ids_test")
        return self.completed(_labelled(train, test, ids, test_ids, path))

    def _data(self, arrays: Mapping[str, NDArray[Any]], part: str, path: Path) -> Dataset:
        for name in (f"x{part}", f"y{part}"):
            if name not in arrays:
                raise _unfit(path, name, f"it is missing; there are {', '.join(arrays)}")
        x, y = arrays[f"x{part}"], arrays[f"y{part}"]
        if x.dtype.kind not in ("iu" if self.codes else "fiub"):
            wanted = "integers" if self.codes else "numbers"
            raise _unfit(path, f"x{part}", f"it is {x.dtype}, and features are {wanted}")
        if x.ndim < 2:
            raise _unfit(path, f"x{part}", f"its shape is {x.shape}; an example has features")
        with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
            return Dataset(x if self.codes else x.astype(np.float32, copy=False), y, path.name)


def _labelled(
    train: Dataset,
    test: Dataset | None,
    ids: NDArray[Any] | None,
    test_ids: NDArray[Any] | None,
    path: Path,
) -> Source:
    """The source of datasets whose y is as it was saved."""
    parts = [train] if test is None else [train, test]
    kinds = {part.y.dtype.kind for part in parts}
    names: tuple[str, ...] = ()
    if kinds == {"f"}:
        classes = None
        with np.errstate(over="ignore"):
            targets = [part.y.astype(np.float32) for part in parts]
        targets = [y[:, np.newaxis] if y.ndim == 1 else y for y in targets]
    elif kinds <= set("iub"):
        targets = [part.y.astype(np.int64) for part in parts]
        classes = 1 + max(int(y.max(initial=0)) for y in targets)
    elif kinds <= set("SU"):
        texts = [_texts(part.y, path) for part in parts]
        names = tuple(np.unique(texts[0]).tolist())
        targets = [np.searchsorted(names, words).astype(np.int64) for words in texts]
        classes = len(names)
        if not np.isin(texts[-1], names).all():
            raise _unfit(path, "y_test", "it holds a class that is not in y")
    else:
        found = ", ".join(str(part.y.dtype) for part in parts)
        raise _unfit(path, "y", f"targets are {found}: neither classes nor real numbers")
    made = [Dataset(part.x, y, part.name) for part, y in zip(parts, targets, strict=True)]
    source = Source(made[0], ids=ids, classes=classes, class_names=names)
    return source if test is None else replace(source, test=made[1], test_ids=test_ids)


def _texts(y: NDArray[Any], path: Path) -> NDArray[np.str_]:
    try:
        return y.astype(np.str_)
    except UnicodeDecodeError:
        why = "it holds bytes beyond ASCII, and nobody says what letters they are: save y as text"
        raise _unfit(path, "y", why) from None


def _unfit(path: Path, array: str, why: str) -> DataFormatError:
    return DataFormatError(
        f"{path.name}: the array {array!r} does not fit",
        where=f"{path}: {array}.npy",
        why=why,
        fix="save numpy.savez(path, x=…, y=…), and if there are some ids=…, x_test=…, y_test=…",
    )
