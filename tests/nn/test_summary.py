"""A summary is the table of what one example passes through, for any structure of results."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore import nn
from fedcore.errors import ShapeError
from fedcore.nn import Context


def numbers(model: nn.Module, shape: tuple[int, ...], name: str) -> list[str]:
    """A column of numbers, the total last."""
    place = ("parameters", "bytes", "FLOPs").index(name) - 3
    return [row.split()[place] for row in model.summary(shape).splitlines()[1:]]


def test_a_convolutional_network_is_counted_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, key=0, padding="same"),
        nn.relu,
        nn.MaxPool2d(2),
        nn.flatten,
        nn.Linear(14 * 14 * 8, 10, key=1),
    )
    assert model.summary((28, 28, 1)).splitlines() == [
        "layer     kind       output       parameters   bytes    FLOPs",
        "layers.0  Conv2d     (28, 28, 8)         208     832  313,600",
        "layers.2  MaxPool2d  (14, 14, 8)           0       0        0",
        "layers.4  Linear     (10,)            15,690  62,760   31,360",
        "total                                 15,898  63,592  344,960",
    ]


@pytest.mark.parametrize(
    ("model", "shapes", "flops"),
    [
        (nn.RNN(4, 3, key=0), "(5, 3), (3,)", 2 * 5 * (4 + 3) * 3),
        (nn.LSTM(4, 3, key=0), "(5, 3), (3,), (3,)", 2 * 5 * (4 + 3) * 12),
        (nn.GRU(4, 3, key=0), "(5, 3), (3,)", 2 * 5 * (4 + 3) * 9),
    ],
)
def test_a_recurrent_layer_shows_every_result_and_the_products_of_all_steps(
    model: nn.Module, shapes: str, flops: int
) -> None:
    row, total = model.summary((5, 4)).splitlines()[1:]
    assert f"{shapes} " in row
    assert row.split()[-1] == total.split()[-1] == f"{flops:,}"


def test_attention_counts_projections_and_scores() -> None:
    steps, width = 5, 6
    projections, scores = 4 * 2 * steps * width * width, 2 * 2 * steps * steps * width
    rows = nn.MultiHeadAttention(width, 2, key=0).summary((steps, width)).splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["query", "key", "value", "output", "total"]
    assert rows[-1].split()[-1] == f"{projections + scores:,}"


def test_the_total_holds_what_is_computed_between_the_layers() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            self.one = nn.Linear(4, 4, key=0)

        def forward(self, x: Any, ctx: Context) -> Any:
            y = self.one(x, ctx=ctx)
            return y @ y.T

    assert numbers(Product(), (4,), "FLOPs") == ["32", "40"]


def test_a_layer_that_is_used_twice_is_shown_twice_and_its_parameters_counted_once() -> None:
    shared = nn.Linear(4, 4, key=0)

    class Loop(nn.Module):
        def __init__(self) -> None:
            self.shared = shared

        def forward(self, x: Any, ctx: Context) -> Any:
            return self.shared(self.shared(x, ctx=ctx), ctx=ctx)

    assert numbers(Loop(), (4,), "parameters") == ["20", "20", "20"]
    assert numbers(Loop(), (4,), "FLOPs") == ["32", "32", "64"]


def test_integers_pass_through_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, key=0), nn.GRU(4, 3, key=1), nn.last_step)
    rows = model.summary((5,), dtype="int64").splitlines()[1:]
    assert [row.split()[1] for row in rows[:-1]] == ["Embedding", "GRU"]


def test_a_shape_that_does_not_fit_is_refused_with_the_path() -> None:
    with pytest.raises(ShapeError, match=r"layers\.0 \(Linear\)"):
        nn.Sequential(nn.Linear(4, 2, key=0)).summary((5,))


def test_one_length_is_a_shape_of_one_axis() -> None:
    model = nn.Linear(4, 2, key=0)
    assert model.summary(4) == model.summary((4,))


@pytest.mark.parametrize("shape", [(None, 8, 8, 1), "(8, 8)", (8.0,), None, (0,), -1])
def test_what_is_no_shape_is_refused_with_an_example(shape: Any) -> None:
    with pytest.raises(ShapeError, match="summary: input_shape is") as caught:
        nn.Linear(4, 2, key=0).summary(shape)
    assert "without a batch axis" in caught.value.fix
