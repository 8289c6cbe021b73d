"""What holds of every source, by its files in small."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.errors import DataFormatError, FedcoreError, TaskError
from fedsim.sources import SOURCES, SourceSpec
from fedsim.sources.held_out import HeldOut, Measured
from tests.sim.sources.miniatures import MINIATURES, load

NAMES = sorted(SOURCES)
DIVIDED = [name for name in NAMES if issubclass(SOURCES[name], Measured)]
FROM_FILES = [name for name in NAMES if name not in ("digits", "synthetic")]


def rows(data: Any, ids: Any) -> list[tuple[Any, ...]]:
    marks = [None] * len(data) if ids is None else ids.tolist()
    return [(x.tobytes(), y.tobytes(), m) for x, y, m in zip(data.x, data.y, marks, strict=True)]


def test_every_source_has_a_miniature() -> None:
    assert set(MINIATURES) == set(SOURCES)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_have_the_dtypes_and_shapes_that_models_train_on(name: str, tmp_path: Path) -> None:
    source = load(name, MINIATURES[name](tmp_path))
    assert source.test is not None
    for data, ids in ((source.train, source.ids), (source.test, source.test_ids)):
        codes = name == "shakespeare"
        assert data.x.dtype == (np.uint8 if codes else np.float32)
        assert not np.isnan(data.x.astype(np.float32)).any()
        if source.classes is None:
            assert data.y.dtype == np.float32 and data.y.shape == (len(data), 1)
        else:
            assert data.y.dtype == np.int64 and data.y.shape == (len(data),)
            assert 0 <= data.y.min() <= data.y.max() < source.classes
        assert ids is None or ids.shape == (len(data),)
    assert source.labels.shape == (len(source.train),)
    if source.train.x.ndim == 2 and source.feature_names:
        assert len(source.feature_names) == source.train.x.shape[1]
    assert len(source.class_names) in (0, source.classes)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_files_and_options_give_the_same_arrays(name: str, tmp_path: Path) -> None:
    options = MINIATURES[name](tmp_path)
    one, same = load(name, options), load(name, options)
    assert rows(one.train, one.ids) == rows(same.train, same.ids)
    assert rows(one.test, one.test_ids) == rows(same.test, same.test_ids)


@pytest.mark.parametrize("name", DIVIDED)
@pytest.mark.parametrize("held", [{"held_out": 0.3}, {"held_out_clients": 0.4}])
def test_each_row_is_trained_on_or_tested_on_and_keeps_its_id(
    name: str, held: dict[str, float], tmp_path: Path
) -> None:
    options = MINIATURES[name](tmp_path)
    whole, parts = load(name, {**options, "held_out": 0.0}), load(name, {**options, **held})
    assert whole.test is None and parts.test is not None
    found = Counter(rows(parts.train, parts.ids)) + Counter(rows(parts.test, parts.test_ids))
    assert found == Counter(rows(whole.train, whole.ids))
    assert parts.ids is not None and parts.test_ids is not None
    shared = set(parts.ids.tolist()) & set(parts.test_ids.tolist())
    assert bool(shared) == ("held_out" in held)


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(SOURCES[name], HeldOut)])
def test_no_client_is_held_out_entirely_unless_clients_are(name: str, tmp_path: Path) -> None:
    options = MINIATURES[name](tmp_path)
    whole = load(name, {**options, "held_out": 0.0})
    parts = load(name, {**options, "held_out": 0.99})
    assert whole.ids is not None and parts.ids is not None
    assert set(parts.ids.tolist()) == set(whole.ids.tolist())


@pytest.mark.parametrize("name", [*DIVIDED, "adult", "mnist"])
def test_standardised_features_have_the_training_rows_mean_and_deviation(
    name: str, tmp_path: Path
) -> None:
    options = MINIATURES[name](tmp_path)
    plain, scaled = load(name, options), load(name, {**options, "standardize": True})
    x = plain.train.x.reshape(-1, plain.train.x.shape[-1]).astype(np.float64)
    deviation = np.where(x.std(axis=0) > 1e-6, x.std(axis=0), 1.0)
    assert plain.test is not None and scaled.test is not None
    for raw, found in ((plain.train, scaled.train), (plain.test, scaled.test)):
        # float32 keeps 7 digits, of which a mean of thousands leaves 3 or 4 after the point.
        assert np.allclose(found.x, (raw.x - x.mean(axis=0)) / deviation, atol=1e-3)
        assert np.array_equal(found.y, raw.y)


@pytest.mark.parametrize("name", FROM_FILES)
def test_files_that_are_missing_are_named_with_the_place_where_they_belong(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    options = MINIATURES[name](tmp_path / "full")
    with pytest.raises(DataFormatError) as found:
        load(name, {**options, "path": "absent"}, tmp_path)
    assert found.value.where.startswith(str(tmp_path / "absent"))
    assert found.value.why and found.value.fix
    if name not in ("arff", "csv", "npz"):
        assert "nothing is downloaded" in found.value.fix


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_relative_path_lies_in_the_scenarios_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    options = MINIATURES[name](tmp_path / "data")
    relative = str(Path(options["path"]).relative_to(tmp_path))
    found = load(name, {**options, "path": relative}, tmp_path)
    assert rows(found.train, found.ids) == rows(load(name, options).train, found.ids)


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_file_that_is_cut_short_raises_nothing_but_the_projects_errors(
    name: str, tmp_path: Path
) -> None:
    options = MINIATURES[name](tmp_path)
    path = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    for size in (1, len(content) // 3, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        with suppress(FedcoreError):  # a table may end after any row
            load(name, options)
    path.write_bytes(b"")
    with pytest.raises(DataFormatError):
        load(name, options)


@pytest.mark.parametrize("name", NAMES)
def test_a_specification_reads_what_it_writes(name: str, tmp_path: Path) -> None:
    spec = SourceSpec.read({"name": name, **MINIATURES[name](tmp_path)}, "source")
    assert SourceSpec.read(spec.write(), "source") == spec


def test_unknown_sources_and_options_are_refused_with_the_nearest_that_is_known() -> None:
    with pytest.raises(TaskError, match="mnits") as found:
        SourceSpec.read({"name": "mnits"}, "source")
    assert "'mnist'" in found.value.fix
    with pytest.raises(TaskError, match="held_uot") as found:
        SourceSpec.read({"name": "digits", "held_uot": 0.1}, "source")
    assert "held_out" in found.value.fix
    with pytest.raises(TaskError, match=r"source\.path is missing"):
        SourceSpec.read({"name": "har"}, "source")
