"""Write convolution.npz: PyTorch's convolutions and pooling, with gradients, in float64.

Run with an interpreter that has PyTorch: python -m tests.golden.make_convolution
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedcore import nn
from fedcore.tensor.ops import pool
from tests.golden.case import Case, layer_case, normal, write
from tests.golden.layouts import channels_first, channels_last, conv_weight

FILE = Path(__file__).with_name("convolution.npz")
Pair = tuple[int, int]
Border = tuple[Pair, Pair]
NONE: Border = ((0, 0), (0, 0))


def conv1d(
    x: tuple[int, int, int],
    features: int,
    kernel: int,
    *,
    border: Pair = (0, 0),
    padding: Any = None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Case:
    """`border` is what PyTorch pads; `padding` is what we are told, by default the same."""
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    given = border if padding is None else padding
    layer = nn.Conv1d(x[-1], features, kernel, key=0, padding=given, **options)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        padded = torch.nn.functional.pad(channels_first(v["x"]), border)
        return channels_last(
            torch.conv1d(padded, conv_weight(v["weight"]), v["bias"], **options)  # padding is 0
        )

    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x))


def conv2d(
    x: tuple[int, int, int, int],
    features: int,
    kernel: Any,
    *,
    border: Border = NONE,
    padding: Any = None,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
) -> Case:
    """`border` is what PyTorch pads; `padding` is what we are told, by default the same."""
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    given = border if padding is None else padding
    layer = nn.Conv2d(x[-1], features, kernel, key=0, padding=given, **options)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        images = _padded(torch, channels_first(v["x"]), border, 0.0)
        return channels_last(torch.conv2d(images, conv_weight(v["weight"]), v["bias"], **options))

    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x))


def conv_transpose2d(
    x: tuple[int, int, int, int],
    features: int,
    kernel: Any,
    *,
    border: Border = NONE,
    padding: Any = None,
    output_padding: Any = 0,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
) -> Case:
    """PyTorch pads both sides alike; what `border` has more on one side is cut off its result."""
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    layer = nn.ConvTranspose2d(
        x[-1],
        features,
        kernel,
        key=0,
        padding=border if padding is None else padding,
        output_padding=output_padding,
        **options,
    )
    common = [min(pair) for pair in border]
    (top, bottom), (left, right) = [
        (pair[0] - least, pair[1] - least) for pair, least in zip(border, common, strict=True)
    ]

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        y = torch.conv_transpose2d(
            channels_first(v["x"]),
            conv_weight(v["weight"]),
            v["bias"],
            padding=common,
            output_padding=output_padding,
            **options,
        )
        return channels_last(y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right])

    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x))


def pool2d(
    kind: str, x: tuple[int, int, int, int], window: Any, stride: Any, border: Border = NONE
) -> Case:
    """`kind` is "max" or "avg"; PyTorch's images are padded before the call, so that any border
    is allowed."""
    value = float("-inf") if kind == "max" else 0.0

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        images = _padded(torch, channels_first(v["x"]), border, value)
        functions = torch.nn.functional
        return channels_last(getattr(functions, f"{kind}_pool2d")(images, window, stride=stride))

    ours: Callable[..., Any] = getattr(pool, f"{kind}_pool2d")
    return Case(
        {"x": normal("x", *x)},
        lambda v: ours(v["x"], window, stride=stride, padding=border),
        theirs,
    )


def pool1d(kind: str, x: tuple[int, int, int], window: int, stride: int, padding: int) -> Case:
    """As `pool2d`, with PyTorch's own padding."""
    ours: Callable[..., Any] = getattr(pool, f"{kind}_pool1d")

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        function = getattr(torch.nn.functional, f"{kind}_pool1d")
        return channels_last(function(channels_first(v["x"]), window, stride, padding))

    return Case(
        {"x": normal("x", *x)},
        lambda v: ours(v["x"], window, stride=stride, padding=padding),
        theirs,
    )


def _of_x(layer: Any, v: Mapping[str, Any]) -> Any:
    return layer(v["x"])


def _padded(torch: Any, images: Any, border: Border, value: float) -> Any:
    if border == NONE:
        return images
    (top, bottom), (left, right) = border
    return torch.nn.functional.pad(images, (left, right, top, bottom), value=value)


CASES: Mapping[str, Case] = {
    "conv1d": conv1d((2, 6, 2), 3, 3),
    "conv1d_options": conv1d((2, 9, 4), 2, 2, border=(1, 2), stride=2, dilation=3, groups=2),
    "conv1d_same": conv1d((2, 5, 2), 2, 4, padding="same", border=(1, 2)),
    "conv2d": conv2d((2, 4, 5, 2), 3, (3, 2)),
    "conv2d_stride": conv2d((2, 6, 5, 2), 2, 3, stride=(2, 1), border=((1, 1), (1, 1))),
    "conv2d_dilation": conv2d((1, 6, 7, 2), 2, 2, dilation=(2, 3)),
    "conv2d_asymmetric": conv2d((1, 3, 4, 2), 2, 3, border=((2, 0), (0, 1))),
    "conv2d_same": conv2d((1, 4, 3, 2), 2, (2, 3), padding="same", border=((0, 1), (1, 1))),
    # ceil(5 / 2) = 3 places reach over 2·2 + 3 = 7 rows, one more than 5 on each side;
    # ceil(4 / 3) = 2 places reach over 3 + 2 = 5 columns, one more than 4, after the image
    "conv2d_same_stride": conv2d(
        (1, 5, 4, 2), 2, (3, 2), stride=(2, 3), padding="same", border=((1, 1), (0, 1))
    ),
    "conv2d_groups": conv2d((1, 4, 4, 4), 6, 2, groups=2, border=((1, 1), (0, 0))),
    "conv2d_depthwise": conv2d((1, 4, 4, 3), 6, 3, groups=3, border=((1, 1), (1, 1))),
    "conv2d_pointwise": conv2d((2, 3, 2, 4), 3, 1),
    "conv_transpose2d": conv_transpose2d((2, 3, 2, 2), 3, (2, 3)),
    "conv_transpose2d_stride": conv_transpose2d(
        (1, 3, 2, 2), 2, 3, stride=2, border=((1, 1), (1, 1)), output_padding=1
    ),
    "conv_transpose2d_options": conv_transpose2d(
        (1, 3, 2, 4),
        6,
        (2, 3),
        stride=(2, 3),
        dilation=(3, 1),
        groups=2,
        border=((0, 1), (1, 0)),
        output_padding=(1, 0),
    ),
    # 2·2 + 3 = 7 rows are one more than 3·2, and 2 + 3 = 5 columns one more than 2·2
    "conv_transpose2d_same": conv_transpose2d(
        (1, 3, 2, 2), 2, 3, stride=2, padding="same", border=((0, 1), (0, 1))
    ),
    "max_pool2d": pool2d("max", (2, 4, 6, 2), 2, 2),
    "max_pool2d_overlap": pool2d("max", (1, 5, 6, 2), (3, 2), (1, 2), ((1, 1), (1, 0))),
    "max_pool2d_gaps": pool2d("max", (1, 7, 7, 2), 2, 3),
    "avg_pool2d": pool2d("avg", (2, 4, 6, 2), 2, 2),
    "avg_pool2d_overlap": pool2d("avg", (1, 5, 6, 2), (3, 2), (1, 2), ((1, 1), (1, 0))),
    "max_pool1d": pool1d("max", (2, 7, 2), 3, 2, 1),
    "avg_pool1d": pool1d("avg", (2, 7, 2), 3, 2, 1),
}

if __name__ == "__main__":
    write(FILE, CASES)
