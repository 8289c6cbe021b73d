"""A user's own table, CSV or ARFF, and a published one in ARFF: WISDM.

Source of WISDM: J. Kwapisz, G. Weiss and S. Moore, "Activity recognition using cell phone
accelerometers" (SensorKDD 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedcore.data import Table, load_arff, load_csv
from fedcore.errors import DatasetError
from fedsim.sources.columns import Columns, Encoding, examples, with_test
from fedsim.sources.files import place_of, sole_file
from fedsim.sources.held_out import Measured
from fedsim.sources.source import Source

__all__ = ["Arff", "Csv", "Wisdm"]


@dataclass(frozen=True, kw_only=True)
class _UserTable(Measured):
    """Which file, and what its columns are for; every column that is not named is a feature.

    `target`: the column to predict. `ids`: the column that says whose a row is, "" for none.
    `exclude`: columns to leave out. `encode`: a category as "codes" or as columns, "one_hot".
    `test`: another file of the same columns to test on, instead of rows held out.
    Shapes: x (N, F) float32, missing features imputed; y (N,) int64, or (N, 1) float32.
    """

    path: str
    target: str
    ids: str = ""
    exclude: tuple[str, ...] = ()
    encode: Encoding = "codes"
    test: str = ""

    def _columns(self) -> Columns:
        return Columns(target=self.target, ids=self.ids, exclude=self.exclude, encode=self.encode)


@dataclass(frozen=True, kw_only=True)
class Csv(_UserTable):
    """A CSV file, gzip or not, whose columns are numbers but for those that are `categorical`.

    `header`: the first line names the columns; else they are "0", "1", … `delimiter`: a character,
    or "tab". `missing`: the texts of cells that hold nothing. `regression`: the target is a number
    to predict, not a class.
    """

    categorical: tuple[str, ...] = ()
    header: bool = True
    delimiter: str = ","
    missing: tuple[str, ...] = ("?", "")
    regression: bool = False

    def load(self, base: Path) -> Source:
        """The table in the file `path`."""
        table = self._table(place_of(base, self.path), None)
        source = examples(table, self._columns())
        if not self.test:
            return self.finished(source)
        test = self._table(place_of(base, self.test), table)
        return self.completed(with_test(source, examples(test, self._columns())))

    def _table(self, path: Path, like: Table | None) -> Table:
        """The file's table; its words are those of the table `like`, but clients may be new."""
        words = {} if like is None else dict(like.vocabularies)
        words.pop(self.ids, None)
        named = {*self.categorical, *([] if self.regression else [self.target])}
        named |= {self.ids} if self.ids else set()
        return load_csv(
            path,
            header=self.header,
            categorical=sorted(named - words.keys()),
            vocabularies=words,
            missing=self.missing,
            delimiter="\t" if self.delimiter == "tab" else self.delimiter,
        )


@dataclass(frozen=True, kw_only=True)
class Arff(_UserTable):
    """An ARFF file, gzip or not, whose header says which columns are categories.

    A nominal target has its declared values as classes, in their order; a numeric one is a
    regression.
    """

    def load(self, base: Path) -> Source:
        """The table in the file `path`."""
        path = place_of(base, self.path)
        table = load_arff(path)
        source = examples(table, self._columns())
        if not self.test:
            return self.finished(source)
        path = place_of(base, self.test)
        test = load_arff(path)
        for column, words in table.vocabularies.items():
            if column != self.ids and test.vocabularies.get(column) != words:
                raise DatasetError(
                    f"{path.name} has other values of {column!r:.80} than the training file",
                    where=str(path),
                    why="the same number would be another category",
                    fix="declare the same nominal values, in the same order, in both files",
                )
        return self.completed(with_test(source, examples(test, self._columns())))


@dataclass(frozen=True, kw_only=True)
class Wisdm(Measured):
    """5,418 stretches of ten seconds of 36 people's phone accelerometers, six activities.

    ids: the people, 1 to 36. Features that are missing become their mean over the training rows.
    Shapes: x (N, 43) float32, y (N,) int64.
    """

    path: str

    def load(self, base: Path) -> Source:
        """The file `WISDM_ar_v1.1_transformed.arff` in the folder `path`, or `path` itself."""
        official = (
            "WISDM v1.1 (Activity Prediction) from the site of Fordham University's WISDM Lab"
        )
        place = place_of(base, self.path)
        table = load_arff(sole_file(place, "WISDM_ar_v1.1_transformed.arff", official=official))
        columns = Columns(target="class", ids="user", exclude=("UNIQUE_ID",))
        return self.finished(examples(table, columns))
