"""The picture of the README is what the demo's drawing makes of figures that lie beside it."""

from __future__ import annotations

import importlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"


@pytest.fixture
def figures(examples: Path) -> Any:
    recorded: Any = importlib.import_module("figures")
    return recorded.Figures.load(IMAGES / "federated-digits.json")


def test_the_picture_is_drawn_from_the_figures_beside_it(examples: Path, tmp_path: Path) -> None:
    drawing = importlib.import_module("picture")
    drawing.main([str(IMAGES / "federated-digits.json"), str(tmp_path / "drawn.svg")])
    kept = (IMAGES / "federated-digits.svg").read_text("utf-8")
    assert kept == (tmp_path / "drawn.svg").read_text("utf-8")


def test_the_picture_is_drawn_as_the_contributor_s_page_says(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (examples.parent / "CONTRIBUTING.md").read_text("utf-8")
    copied, drawn = re.findall(r"^\$ (?:cp|\S+python examples/picture\.py) (.*)$", text, re.M)
    monkeypatch.chdir(tmp_path)
    for name in copied.split():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(IMAGES / "federated-digits.json", copied.split()[0])  # as the demo leaves it
    shutil.copy(*copied.split())
    importlib.import_module("picture").main(drawn.split())
    kept = (IMAGES / "federated-digits.svg").read_text("utf-8")
    assert (tmp_path / "docs/images/federated-digits.svg").read_text("utf-8") == kept


def test_figures_are_stored_and_read_again(figures: Any, tmp_path: Path) -> None:
    figures.save(tmp_path / "figures.json")
    assert type(figures).load(tmp_path / "figures.json") == figures
    recorded = (IMAGES / "federated-digits.json").read_text("utf-8")
    assert (tmp_path / "figures.json").read_text("utf-8") == recorded


def test_the_picture_shows_each_round_and_its_epsilon(figures: Any) -> None:
    drawn = importlib.import_module("picture").picture(figures)
    ElementTree.fromstring(drawn)
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    for each in figures.rounds:
        shown = f"{100 * each.accuracy:.4g}% (round {each.number})"
        assert f"federated and private, ε = {figures.epsilon:.2f}: {shown}" in titles
        assert f"ε: {each.epsilon:g} (round {each.number})" in titles


def test_rounds_that_lost_clients_are_marked_and_no_others(figures: Any) -> None:
    picture = importlib.import_module("picture").picture
    whole = [replace(each, reported=each.selected) for each in figures.rounds]
    assert "lost clients" not in picture(replace(figures, rounds=whole))
    whole[4] = replace(whole[4], reported=whole[4].selected - 2)
    marked = picture(replace(figures, rounds=whole))
    assert re.findall(r"lost clients: .*?round (\d+)\)", marked) == ["5"]


def test_the_table_has_the_last_accuracy_of_each_model(figures: Any) -> None:
    rows = {name: accuracy for name, accuracy, _ in figures.table}
    assert rows["federated and private"] == figures.rounds[-1].accuracy
    assert rows["a writer alone, worst"] <= rows["a writer alone, mean"]
    assert rows["a writer alone, mean"] <= rows["a writer alone, best"]
    assert rows["centralised, images pooled"] == figures.pooled[-1]
