"""Census income: who earns more than 50,000 dollars, of the United States' census of 1994.

Source: R. Kohavi and B. Becker, "Adult", UCI (1996).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from fedcore.data import load_csv
from fedsim.sources.columns import Columns, Encoding, examples, ids_of, with_test
from fedsim.sources.features import imputed, standardized
from fedsim.sources.files import file_of, place_of
from fedsim.sources.source import Reader, Source

__all__ = ["Adult"]

_NAMES: Final = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
_CATEGORIES: Final = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "native-country",
    "income",
)
_OFFICIAL: Final = '"Adult" (adult.data and adult.test) from the UCI repository'


@dataclass(frozen=True, kw_only=True)
class Adult(Reader):
    """Census income, 14 columns, with the official test set.

    The data name no client. `clients` makes one of each "occupation" or "workclass", which stays a
    feature; "none" for no ids. A category that is unknown (`?`) is a category of its own.
    `encode`: "one_hot" for a column for each word, x (N, 108) float32, or "codes" for its number,
    x (N, 14). Columns have very different scales: `standardize` them by the mean and deviation of
    the training rows, which a federation would have to agree on. y (N,) int64: 1 above 50,000.
    """

    path: str
    clients: Literal["none", "occupation", "workclass"] = "none"
    encode: Encoding = "one_hot"
    standardize: bool = False

    def load(self, base: Path) -> Source:
        """The files `adult.data` and `adult.test` in the folder `path`."""
        place = place_of(base, self.path)
        train_path, test_path = (
            file_of(place, (name,), official=_OFFICIAL) for name in ("adult.data", "adult.test")
        )
        train = load_csv(
            train_path, header=False, names=_NAMES, categorical=_CATEGORIES, missing=()
        )
        # The test file ends its labels with a full stop and begins with a remark.
        income = tuple(f"{word}." for word in train.vocabularies["income"])
        words = {**train.vocabularies, "income": income}
        test = load_csv(
            test_path, header=False, names=_NAMES, vocabularies=words, missing=(), comment="|"
        )
        columns = Columns(target="income", encode=self.encode)
        source = with_test(examples(train, columns), examples(test, columns))
        if self.clients != "none":
            ids, test_ids = (ids_of(table, self.clients) for table in (train, test))
            source = replace(source, ids=ids, test_ids=test_ids)
        return standardized(source) if self.standardize else imputed(source)
