"""What a device is follows from the scenario, the seed and the client's name alone."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import DataFormatError, TaskError
from fedcore.settings import write_settings
from fedcore.toml import read_table
from fedsim.devices import Devices, DevicesSpec, Stage

NAMES = [f"client-{place:03d}" for place in range(400)]
MIXED = """
[availability]
kind = "cycle"
share = 0.25

[[classes]]
name = "phone"
share = 3
compute = {kind = "lognormal", median = 50, sigma = 1}
download = {kind = "uniform", least = 1e5, most = 3e5}
latency_s = {kind = "fixed", value = 0.2}
dropout = {training = 0.2, upload = 0.1}

[[classes]]
name = "laptop"
share = 1
compute = {kind = "fixed", value = 900}
"""


def devices(
    text: str = "", *, names: Sequence[str] = NAMES, seed: int = 7, folder: Path | None = None
) -> Devices:
    spec = read_table(text, "devices.toml", DevicesSpec)
    return Devices(spec, seed=seed, names=names, folder=folder)


def test_the_devices_of_an_empty_table_are_ideal() -> None:
    found = devices()
    assert found.spec == DevicesSpec()
    profile = found[3]
    speeds = (profile.compute, profile.download, profile.upload)
    assert speeds == (math.inf,) * 3 and profile.latency_s == 0 and not any(profile.dropout)


def test_a_device_is_the_same_in_any_population_and_order() -> None:
    everyone, few = devices(MIXED), devices(MIXED, names=["client-009", "client-002"])
    assert [few[0], few[1]] == [everyone[9], everyone[2]]
    at = 5_000_000
    assert [part.tolist() for part in few.availability.window(np.array([0, 1]), at)] == [
        part.tolist() for part in everyone.availability.window(np.array([9, 2]), at)
    ]
    assert devices(MIXED, seed=8)[9] != everyone[9]


def test_many_profiles_at_once_are_those_of_each() -> None:
    found = devices(MIXED)
    asked = np.array([9, 2, 2, 100])
    many = found.profiles(asked)
    for row, client in enumerate(asked.tolist()):
        assert many.compute[row] == found[client].compute
        assert tuple(many.dropout[row]) == found[client].dropout
    upload = many.probability(Stage.UPLOAD)
    assert set(upload.tolist()) <= {0.0, 0.1}


def test_classes_have_their_shares_and_each_its_own_hardware() -> None:
    found = devices(MIXED).profiles(np.arange(400))
    phones = found.kinds == 0
    assert 270 <= phones.sum() <= 330  # 300 ± 3.5 standard deviations
    assert set(found.compute[~phones].tolist()) == {900.0}
    assert np.isinf(found.download[~phones]).all() and np.isinf(found.upload).all()
    assert (found.latency_s[phones] == 0.2).all() and (found.latency_s[~phones] == 0).all()
    assert found.download[phones].min() >= 1e5 and found.download[phones].max() < 3e5
    # Of a log-normal half are below the median, and one in six below median / e.
    below = [(found.compute[phones] < bound).mean() for bound in (50, 50 / math.e)]
    assert below == pytest.approx([0.5, 0.1587], abs=0.1)


def test_by_default_a_quarter_of_the_day_means_a_quarter_of_the_clients() -> None:
    found = devices(MIXED)
    for hour in range(0, 48, 5):
        at = hour * 3_600_000
        begins, _ = found.availability.window(np.arange(400), at)
        assert 0.15 < (begins <= at).mean() < 0.35


def test_without_spread_everybody_comes_at_once() -> None:
    found = devices('availability = {kind = "cycle", period_s = 100, share = 0.5, spread = 0}')
    begins, ends = found.availability.window(np.arange(400), 60_000)
    assert set(begins.tolist()) == {100_000} and set(ends.tolist()) == {150_000}


def test_nothing_is_kept_for_a_client_that_sleeps() -> None:
    names = [f"{place}" for place in range(50_000)]
    tracemalloc.start()
    try:
        found = devices(MIXED, names=names)
        found.profiles(np.arange(100))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 12 * len(names)


def test_the_table_says_again_what_was_read() -> None:
    spec = devices(MIXED).spec
    written = write_settings(spec)
    assert DevicesSpec.read(written, "devices") == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("compute = {kind = 'fixed', value = 0}", "compute may be 0"),
        ("upload = {kind = 'uniform', least = 3, most = 2}", "least = 3.0 is more than most"),
        ("compute = {kind = 'normal', mean = 3}", "'normal'"),
        ("dropout = {training = 1.5}", "training"),
        ("dropout = {trianing = 0.5}", "did you mean training"),
        ("availability = {kind = 'cycle', share = 0}", "share"),
        ("latency_s = {kind = 'fixed', value = 1}\n[[classes]]\nname = 'a'\nshare = 1", "beside"),
        ("[[classes]]\nname = 'a'\nshare = 1\n[[classes]]\nname = 'a'\nshare = 1", "1 names for 2"),
    ],
)
def test_what_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        devices(text)
    assert says in str(caught.value) and caught.value.why


def traced(folder: Path, text: str, options: str = "") -> Devices:
    (folder / "there.csv").write_text(text)
    table = f'availability = {{kind = "trace", file = "there.csv"{options}}}'
    return devices(table, names=["ann", "bob", "cyd"], folder=folder)


WINDOWS = "client,from_s,until_s\nbob,7,9\nbob,0.5,3\nann,3,4\nbob,3,4\nzoe,0,9\n"


def test_a_trace_is_followed_by_the_clients_that_it_names(tmp_path: Path) -> None:
    found = traced(tmp_path, WINDOWS)
    begins, ends = found.availability.window(np.arange(3), 0)
    assert begins[:2].tolist() == [3000, 500]
    assert ends[:2].tolist() == [4000, 4000]  # windows that touch are one
    assert begins[2] == ends[2] > 10**15


def test_a_drawn_record_is_that_of_some_recorded_device(tmp_path: Path) -> None:
    found = traced(tmp_path, WINDOWS, ', clients = "drawn", period_s = 10')
    begins, _ = found.availability.window(np.arange(3), 5000)
    later, _ = found.availability.window(np.arange(3), 35_000)
    assert set(begins.tolist()) <= {0, 7000, 13_000}
    assert (later - begins == 30_000).all()


@pytest.mark.parametrize(
    ("text", "options", "line", "says"),
    [
        ("client,begin,end\nann,0,1\n", "", 1, "client,from_s,until_s"),
        ("", "", 1, "client,from_s,until_s"),
        ("client,from_s,until_s\nann,0,1\nann,0.5,2\n", "", 3, "overlaps"),
        ("client,from_s,until_s\nann,1,1\n", "", 2, "for a time"),
        ("client,from_s,until_s\n,0,1\n", "", 2, "named client"),
        ("client,from_s,until_s\nann,0,nan\n", "", 2, "until_s = 'nan'"),
        ("client,from_s,until_s\nann,-1,2\n", "", 2, "from_s = '-1'"),
        ("client,from_s,until_s\nann,soon,2\n", "", 2, "from_s = 'soon'"),
        ("client,from_s,until_s\nann,1\n", "", 2, "2 fields"),
        ("client,from_s,until_s\nann,0,20\n", ", period_s = 10", 2, "repeats after 10.0 s"),
    ],
)
def test_a_trace_of_another_form_is_refused_with_its_line(
    tmp_path: Path, text: str, options: str, line: int, says: str
) -> None:
    with pytest.raises(DataFormatError) as caught:
        traced(tmp_path, text, options)
    assert says in str(caught.value) and caught.value.where == f"there.csv:{line}"


def test_a_trace_of_others_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="names none of the 3 clients") as caught:
        traced(tmp_path, "client,from_s,until_s\nzoe,0,9\n")
    assert 'clients = "drawn"' in caught.value.fix
    with pytest.raises(TaskError, match="names none"):
        traced(tmp_path, "client,from_s,until_s\n", ', clients = "drawn"')
    with pytest.raises(DataFormatError, match="cannot read"):
        devices('availability = {kind = "trace", file = "none.csv"}', folder=tmp_path)
    (tmp_path / "there.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataFormatError, match="not UTF-8"):
        devices('availability = {kind = "trace", file = "there.csv"}', folder=tmp_path)
