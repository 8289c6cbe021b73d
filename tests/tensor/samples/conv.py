"""Samples of convolution, pooling and patches: each geometry that takes another way."""

from typing import Any

from tests.tensor.samples.sample import Sample, distinct, fixed, reals, sample

Pair = tuple[int, int]


def of_one_convolution(
    batch: int,
    size: Pair,
    channels: int,
    kernel: Pair,
    features: int,
    *,
    stride: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> list[Sample]:
    """The three products of a convolution."""
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    down, across = (
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    )
    x = reals(batch, *size, channels)
    w = reals(*kernel, channels // groups, features)
    g = reals(batch, down, across, features)
    return [
        sample("conv2d", x, w, **options),
        sample("conv2d_input_gradient", g, w, size=size, **options),
        sample("conv2d_weight_gradient", x, g, kernel=kernel, **options),
    ]


SAMPLES = [
    *of_one_convolution(2, (4, 3), 2, (3, 3), 3, padding=((1, 1), (1, 1))),
    *of_one_convolution(1, (3, 4), 6, (2, 3), 2, padding=((1, 0), (1, 1))),
    *of_one_convolution(2, (5, 4), 2, (3, 2), 4, stride=(2, 3), padding=((1, 2), (0, 2))),
    *of_one_convolution(1, (6, 5), 8, (3, 2), 2, stride=(3, 2), dilation=(2, 3)),
    *of_one_convolution(2, (4, 4), 4, (2, 2), 4, groups=2, padding=((0, 1), (1, 0))),
    *of_one_convolution(2, (3, 3), 33, (2, 2), 2, padding=((1, 0), (0, 1))),
    *of_one_convolution(1, (3, 2), 32, (1, 1), 2),
    *(
        one
        for window, stride in (
            ((2, 2), (2, 2)),
            ((3, 2), (2, 1)),
            ((1, 3), (2, 1)),
            ((3, 3), (3, 3)),
        )
        for one in (
            sample("max_pool", distinct(2, 5, 6, 3), window=window, stride=stride),
            sample(
                "max_pool_gradient",
                reals(2, (5 - window[0]) // stride[0] + 1, (6 - window[1]) // stride[1] + 1, 3),
                fixed(distinct(2, 5, 6, 3)),
                window=window,
                stride=stride,
            ),
            sample(
                "max_pool_gather",
                reals(2, 5, 6, 3),
                fixed(distinct(2, 5, 6, 3)),
                window=window,
                stride=stride,
            ),
            sample("sum_pool", reals(2, 5, 6, 3), window=window, stride=stride),
            sample(
                "sum_pool_transpose",
                reals(2, (5 - window[0]) // stride[0] + 1, (6 - window[1]) // stride[1] + 1, 3),
                size=(5, 6),
                window=window,
                stride=stride,
            ),
        )
    ),
    sample("bias_relu_pool", distinct(2, 4, 6, 3), reals(3), window=(2, 2), stride=(2, 2)),
    sample("bias_relu_pool", distinct(1, 5, 5, 2), reals(2), window=(3, 2), stride=(1, 2)),
    sample("sum_pixels", reals(2, 3, 2, 4)),
    sample("sum_pixels", reals(1, 1, 3, 1)),
    sample("patches", reals(2, 4, 5, 2), window=(2, 3), stride=(2, 1), dilation=(1, 2)),
    sample(
        "add_patches",
        reals(2, 2, 1, 12),
        size=(4, 5),
        window=(2, 3),
        stride=(2, 1),
        dilation=(1, 2),
    ),
]
