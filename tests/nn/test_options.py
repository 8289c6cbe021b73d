"""An option out of range is refused where the layer is made, before any data have passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedcore import nn
from fedcore.errors import ArgumentError, FedcoreError

NAN = float("nan")
SIZES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Linear": (lambda **o: nn.Linear(**o, key=0), ("in_features", "out_features")),
    "Embedding": (lambda **o: nn.Embedding(**o, key=0), ("count", "features")),
    "Conv1d": (
        lambda stride=1, dilation=1, groups=1, **o: nn.Conv1d(
            **o, key=0, stride=stride, dilation=dilation, groups=groups
        ),
        ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"),
    ),
    "Conv2d": (
        lambda stride=1, dilation=1, groups=1, **o: nn.Conv2d(
            **o, key=0, stride=stride, dilation=dilation, groups=groups
        ),
        ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"),
    ),
    "ConvTranspose1d": (
        lambda stride=1, dilation=1, groups=1, **o: nn.ConvTranspose1d(
            **o, key=0, stride=stride, dilation=dilation, groups=groups
        ),
        ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"),
    ),
    "ConvTranspose2d": (
        lambda stride=1, dilation=1, groups=1, **o: nn.ConvTranspose2d(
            **o, key=0, stride=stride, dilation=dilation, groups=groups
        ),
        ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"),
    ),
    "MaxPool1d": (nn.MaxPool1d, ("window", "stride")),
    "AvgPool1d": (nn.AvgPool1d, ("window", "stride")),
    "MaxPool2d": (nn.MaxPool2d, ("window", "stride")),
    "AvgPool2d": (nn.AvgPool2d, ("window", "stride")),
    "LayerNorm": (nn.LayerNorm, ("features",)),
    "RMSNorm": (nn.RMSNorm, ("features",)),
    "GroupNorm": (nn.GroupNorm, ("groups", "channels")),
    "BatchNorm": (nn.BatchNorm, ("channels",)),
    "RNN": (lambda **o: nn.RNN(**o, key=0), ("features", "hidden")),
    "LSTM": (lambda **o: nn.LSTM(**o, key=0), ("features", "hidden")),
    "GRU": (lambda **o: nn.GRU(**o, key=0), ("features", "hidden")),
    "MultiHeadAttention": (
        lambda **o: nn.MultiHeadAttention(**o, key=0),
        ("features", "heads"),
    ),
    "TransformerEncoderBlock": (
        lambda **o: nn.TransformerEncoderBlock(**o, key=0),
        ("features", "heads", "hidden"),
    ),
}
OPTIONS = [(layer, option) for layer, (_, options) in SIZES.items() for option in options]


@pytest.mark.parametrize(("layer", "option"), OPTIONS)
def test_a_size_that_is_no_positive_whole_number_is_refused(layer: str, option: str) -> None:
    make, options = SIZES[layer]
    for size in (0, -1, 1.5, 2.0, True, NAN, "2", None, (), (1, 2, 3)):
        if size is None and option == "stride" and "Pool" in layer:
            continue  # None is the window
        with pytest.raises(ArgumentError, match=r" is |groups|heads") as caught:
            make(**{name: 2 for name in options} | {option: size})
        error = caught.value
        assert layer in error.what or "MultiHeadAttention" in error.what or "Linear" in error.what
        assert error.why and error.fix


@pytest.mark.parametrize(("layer", "option"), OPTIONS)
def test_a_size_that_numpy_counted_is_taken(layer: str, option: str) -> None:
    make, options = SIZES[layer]
    sizes: dict[str, Any] = {name: 2 for name in options}
    expected = make(**sizes)
    given = make(**sizes | {option: np.int64(2)})
    assert repr(given) == repr(expected)


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, NAN, float("inf"), True, "0.5", None])
@pytest.mark.parametrize(
    "make",
    [
        nn.Dropout,
        lambda value: nn.BatchNorm(2, momentum=value),
        lambda value: nn.MultiHeadAttention(2, 1, key=0, dropout=value),
        lambda value: nn.TransformerEncoderBlock(2, 1, 2, key=0, dropout=value),
    ],
)
def test_a_share_outside_its_range_is_refused(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ArgumentError, match="0 <= value < 1"):
        make(value)


@pytest.mark.parametrize("eps", [0, -1e-5, NAN, float("inf"), True, "1e-5", None])
@pytest.mark.parametrize(
    "make",
    [
        lambda eps: nn.BatchNorm(2, eps=eps),
        lambda eps: nn.LayerNorm(2, eps=eps),
        lambda eps: nn.RMSNorm(2, eps=eps),
        lambda eps: nn.GroupNorm(1, 2, eps=eps),
    ],
)
def test_an_epsilon_that_keeps_nothing_finite_is_refused(
    make: Callable[[Any], Any], eps: Any
) -> None:
    with pytest.raises(ArgumentError, match="eps is"):
        make(eps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv1d(3, 4, 2, key=0, groups=2), "2 groups of 3 channels"),
        (lambda: nn.Conv2d(4, 3, 2, key=0, groups=2), "2 groups of 4 channels in, 3 out"),
        (lambda: nn.GroupNorm(2, 3), "2 groups of 3"),
        (lambda: nn.MultiHeadAttention(6, 4, key=0), "4 heads of 6"),
        (lambda: nn.RNN(2, 2, key=0, activation="gelu"), "activation is 'gelu'"),
        (lambda: nn.TransformerEncoderBlock(2, 1, 2, key=0, activation="gelu"), "activation"),
        (lambda: nn.ConvTranspose2d(1, 1, 2, key=0, output_padding=1.5), "output_padding is 1.5"),
        (lambda: nn.Linear(2, 2, key=-1), "seed is -1"),
        (lambda: nn.Linear(2, 2, key=1.5), "seed is 1.5"),
        (lambda: nn.Linear(2, 2, key=None), "seed is None"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("padding", [-1, 1.5, True, "full", (1,), ((1, 2), (3,)), None, NAN])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda p: nn.Conv1d(2, 2, 2, key=0, padding=p), (1, 5, 2)),
        (lambda p: nn.Conv2d(2, 2, 2, key=0, padding=p), (1, 5, 5, 2)),
        (lambda p: nn.ConvTranspose2d(2, 2, 2, key=0, padding=p), (1, 5, 5, 2)),
        (lambda p: nn.MaxPool1d(2, padding=p), (1, 5, 2)),
        (lambda p: nn.MaxPool2d(2, padding=p), (1, 5, 5, 2)),
    ],
)
def test_a_padding_that_is_none_is_refused_at_the_call(
    make: Callable[[Any], Any], shape: tuple[int, ...], padding: Any
) -> None:
    with pytest.raises(FedcoreError, match=r"layers\.0 .*padding"):
        nn.Sequential(make(padding))(np.zeros(shape, np.float32))
