"""Samples of the primitives that change the number of lanes: each is reached through a function."""

import fedcore as fc
from fedcore.tensor.ops.lanes import fold_lane, unfold_lane
from fedcore.tensor.tensor import Tensor, interpreter
from tests.tensor.samples.sample import reals, sample


def mapped(x: Tensor, w: Tensor) -> Tensor:
    """Enters with x, lifts w, and leaves; its derivative sums w's lanes."""
    return fc.vmap(lambda row: row * w)(x)


def refolded(x: Tensor, w: Tensor) -> Tensor:
    """Per-lane rows as the rows of one matrix and back, as a dense layer's gradient does."""

    def each(row: Tensor) -> Tensor:
        lane = len(interpreter.lane_sizes) - 1
        size = interpreter.lane_sizes[lane]
        rows = fold_lane(row, axis=lane, size=size)
        return unfold_lane(rows, axis=lane, size=size) * w

    return fc.vmap(each)(x)


SAMPLES = [
    *(
        sample(name, reals(3, 4), reals(4), through=mapped)
        for name in (
            "lift_primitive",
            "sum_lanes_primitive",
            "enter_lane_primitive",
            "leave_lane_primitive",
        )
    ),
    sample("fold_lane_primitive", reals(3, 2, 4), reals(4), through=refolded),
    sample("unfold_lane_primitive", reals(3, 2, 4), reals(4), through=refolded),
]
