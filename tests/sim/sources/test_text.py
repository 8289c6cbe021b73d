"""Windows of what one role says, and the characters that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore import nn
from fedcore.data import Dataset
from fedcore.errors import DataFormatError, DatasetError
from fedcore.federated.evaluation import evaluate_sums
from fedcore.metrics import accuracy
from fedsim.sources.text import CHARACTERS
from tests.sim.sources.miniatures import MINIATURES, load


def text_of(codes: Any) -> str:
    return "".join(CHARACTERS[code] or "¿" for code in codes)


def spoken(folder: Path) -> dict[str, str]:
    plays = json.loads((folder / "shakespeare_37plays_by_role.json").read_text("utf-8"))
    return {
        f"{play}: {role}": "\n".join(said).replace("Ç", "¿").replace("ç", "¿")
        for play, roles in plays.items()
        for role, said in roles.items()
    }


@pytest.mark.parametrize("step", [1, 3, 4])
def test_each_window_and_what_follows_stand_so_in_the_roles_text(step: int, tmp_path: Path) -> None:
    options = {**MINIATURES["shakespeare"](tmp_path), "step": step, "held_out": 0.0}
    said = spoken(tmp_path)
    source = load("shakespeare", options)
    assert source.test is None and source.ids is not None
    assert set(source.ids.tolist()) == {role for role, text in said.items() if len(text) >= 10}
    for role in set(source.ids.tolist()):
        rows = source.train[source.ids == role]
        found = [(text_of(x), text_of([y])) for x, y in zip(rows.x, rows.y, strict=True)]
        text = said[role]
        assert found == [(text[i : i + 4], text[i + 4]) for i in range(0, len(text) - 4, step)]


def test_every_character_of_a_window_has_the_next_one_as_target(tmp_path: Path) -> None:
    options = {**MINIATURES["shakespeare"](tmp_path), "target": "every"}
    source, same = load("shakespeare", options), load("shakespeare", {**options, "target": "next"})
    assert source.train.y.shape == source.train.x.shape and source.train.y.dtype == np.int64
    assert np.array_equal(source.train.y[:, :-1], source.train.x[:, 1:])
    assert np.array_equal(source.train.y[:, -1], same.train.y)


@pytest.mark.parametrize("step", [1, 4])
def test_no_character_is_both_trained_on_and_tested_on(step: int, tmp_path: Path) -> None:
    options = {**MINIATURES["shakespeare"](tmp_path), "step": step, "held_out": 0.4}
    source = load("shakespeare", options)
    assert source.test is not None and source.ids is not None and source.test_ids is not None
    role = "second: HAM"  # in whose text each character stands once
    parts = (source.train[source.ids == role], source.test[source.test_ids == role])
    train, test = ({*part.x.ravel().tolist(), *part.y.tolist()} for part in parts)
    assert train.isdisjoint(test)
    if step == 1:
        assert len(train) + len(test) == 36 and len(test) == round(0.4 * 36)


def test_whole_roles_are_held_out_if_asked(tmp_path: Path) -> None:
    options = {**MINIATURES["shakespeare"](tmp_path), "held_out_clients": 0.3}
    source = load("shakespeare", options)
    assert source.ids is not None and source.test_ids is not None
    assert len(set(source.ids.tolist())) == 2 and len(set(source.test_ids.tolist())) == 1
    assert set(source.ids.tolist()).isdisjoint(source.test_ids.tolist())


@given(st.text(min_size=3, max_size=40))
def test_codes_are_the_same_for_everybody_and_others_are_unknown(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("role") / "own.json"
    path.write_text(json.dumps({"play": {"ROLE": [text]}}), "utf-8")
    options = {"path": str(path), "length": 1, "step": 1, "minimum": 1, "held_out": 0.0}
    source = load("shakespeare", options)
    found = [CHARACTERS[code] for code in [*source.train.x[:, 0], source.train.y[-1]]]
    assert found == [character if character in CHARACTERS else "" for character in text]


@pytest.mark.parametrize(
    ("target", "layers"),
    [
        ("next", [nn.LSTM(4, 4, key=1), nn.last_step]),
        ("every", [nn.LSTM(4, 4, key=1), nn.every_step]),
        ("every", [nn.TransformerEncoderBlock(4, 2, 8, causal=True, key=1)]),
    ],
)
def test_models_of_text_read_the_codes_and_cross_entropy_their_targets(
    target: str, layers: list[Any], tmp_path: Path
) -> None:
    source = load("shakespeare", {**MINIATURES["shakespeare"](tmp_path), "target": target})
    model = nn.Sequential(
        nn.Embedding(len(CHARACTERS), 4, key=0),
        *layers,
        nn.Linear(4, 97, key=2),
    )
    sums = evaluate_sums(model, source.train, loss=nn.cross_entropy, metrics={"accuracy": accuracy})
    assert np.isclose(sums["evaluation_loss"] / len(source.train), np.log(97), rtol=0.5)


def test_what_is_no_table_of_speeches_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    options = {"path": str(path), "minimum": 1}
    for text, place in (
        ('{"a": {"B": ["c"]},\n"d"}', f"{path}:2"),
        ("[1]", "the file"),
        ('{"a": 1}', "play 'a'"),
        ('{"a": {"B": "text"}}', "role 'B'"),
        ('{"a": {"B": [1]}}', "role 'B'"),
        ("[" * 100_000, "the file"),
    ):
        path.write_text(text)
        with pytest.raises(DataFormatError) as found:
            load("shakespeare", options)
        assert place in found.value.where
    path.write_text('{"a": {"B": ["short"]}}')
    with pytest.raises(DatasetError, match="no role has 81 characters"):
        load("shakespeare", options)


def test_a_dataset_of_text_is_small(tmp_path: Path) -> None:
    data: Dataset = load("shakespeare", MINIATURES["shakespeare"](tmp_path)).train
    assert data.x.itemsize == 1
