"""Pytrees: leaves in one order with names, structures that compare, and trees built back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, strategies as st

from fedcore.autograd.tree import flatten, flatten_paths, map_tree, unflatten
from fedcore.errors import TreeError


class Point(NamedTuple):
    x: Any
    y: Any


class Layer:
    """A user's own container: two children and a static option."""

    def __init__(self, weight: Any, bias: Any, activation: str) -> None:
        self.weight, self.bias, self.activation = weight, bias, activation

    def tree_children(self) -> tuple[tuple[str, ...], list[Any], Any]:
        return ("weight", "bias"), [self.weight, self.bias], self.activation

    def tree_rebuild(self, children: Sequence[Any]) -> Layer:
        return Layer(*children, self.activation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


LEAVES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=3), st.booleans())
KEYS = st.text("abc", min_size=1, max_size=3)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Layer, inner, inner, st.sampled_from(["relu", "tanh"])),
    ),
    max_leaves=12,
)


# ---- round trips


@given(TREES)
def test_unflatten_undoes_flatten(tree: Any) -> None:
    leaves, structure = flatten(tree)
    assert structure.leaves == len(leaves)
    assert unflatten(structure, leaves) == tree


@given(TREES)
def test_flatten_undoes_unflatten(tree: Any) -> None:
    leaves, structure = flatten(tree)
    others = [object() for _ in leaves]
    found, its = flatten(unflatten(structure, others))
    assert all(a is b for a, b in zip(found, others, strict=True)) and its == structure


@given(TREES)
def test_a_leaf_is_found_along_its_path(tree: Any) -> None:
    def at(node: Any, path: str) -> Any:
        for name in path.split(".") if path else []:
            if isinstance(node, dict):
                node = node[name]
            elif isinstance(node, Layer | Point):
                node = getattr(node, name)
            else:
                node = node[int(name)]
        return node

    for path, leaf in flatten_paths(tree)[0]:
        assert at(tree, path) is leaf


@given(TREES)
def test_structures_compare_and_hash_by_what_is_around_the_leaves(tree: Any) -> None:
    first, second = flatten(tree)[1], flatten(map_tree(lambda x: object(), tree))[1]
    assert first == second and hash(first) == hash(second) and repr(first) == repr(second)
    assert first != flatten([tree])[1] and first != "a tree"


@given(TREES)
def test_map_tree_applies_to_corresponding_leaves(tree: Any) -> None:
    twice = map_tree(lambda a, b: (a, b), tree, tree)
    assert [*flatten(tree)[0]] == [a for a, _ in _pairs(twice, tree)]


def _pairs(twice: Any, tree: Any) -> list[tuple[Any, Any]]:
    leaves = flatten(twice)[0]
    assert len(leaves) == 2 * len(flatten(tree)[0])  # a pair is a tuple, so a tree
    return list(zip(leaves[::2], leaves[1::2], strict=True))


# ---- order and kinds


def test_the_leaves_of_a_dict_come_in_the_order_of_its_keys() -> None:
    first, second = {"b": 1, "a": 2}, {"a": 2, "b": 1}
    assert flatten(first) == flatten(second)
    assert list(unflatten(flatten(first)[1], [5, 6])) == ["a", "b"]


def test_a_dict_of_another_class_comes_back_plain() -> None:
    tree = OrderedDict(b=1, a=2)
    assert flatten(tree)[1] == flatten(dict(tree))[1]
    assert type(unflatten(*reversed(flatten(tree)))) is dict


def test_none_is_a_tree_without_leaves() -> None:
    leaves, structure = flatten([None, 1, {}])
    assert (leaves, structure.leaves) == ([1], 1)
    assert unflatten(structure, [2]) == [None, 2, {}]


def test_a_named_tuple_is_rebuilt_by_its_fields() -> None:
    leaves, structure = flatten(Point(1, [2, 3]))
    assert unflatten(structure, leaves) == Point(1, [2, 3])
    assert [path for path, _ in flatten_paths(Point(1, [2, 3]))[0]] == ["x", "y.0", "y.1"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 2], (1, 2)),
        ([1, 2], [1, 2, 3]),
        ({"a": 1}, {"b": 1}),
        ([1, None], [1, 2]),
        (Point(1, 2), (1, 2)),
        (Layer(1, 2, "relu"), Layer(1, 2, "tanh")),
    ],
)
def test_trees_of_other_kinds_names_or_options_have_other_structures(a: Any, b: Any) -> None:
    assert flatten(a)[1] != flatten(b)[1]


def test_a_class_is_a_leaf_though_its_instances_are_trees() -> None:
    assert flatten([Layer, Point])[0] == [Layer, Point]


# ---- refusals


def test_keys_that_cannot_be_sorted_are_refused_with_the_line() -> None:
    with pytest.raises(TreeError, match="cannot be sorted") as caught:
        flatten({"a": 1, 2: 3})
    assert "test_tree.py" in caught.value.where


@given(TREES, st.integers(0, 20))
def test_a_wrong_number_of_leaves_is_refused(tree: Any, count: int) -> None:
    structure = flatten(tree)[1]
    if count == structure.leaves:
        count += 1
    with pytest.raises(TreeError, match=f"{structure.leaves} leaves cannot hold {count}"):
        unflatten(structure, [0] * count)


def test_trees_that_differ_are_not_combined() -> None:
    with pytest.raises(TreeError, match="the trees differ"):
        map_tree(lambda a, b: a, {"x": 1}, {"y": 1})


def test_a_container_within_itself_is_refused_and_a_deep_one_is_not() -> None:
    tree: Any = [1.0]
    for _ in range(150):
        tree = [tree]
    leaves, structure = flatten(tree)
    assert unflatten(structure, leaves) == tree
    assert flatten(tree)[1] == structure
    endless: list[Any] = []
    endless += [endless, endless]
    with pytest.raises(TreeError, match=r"within 200 others, at 0\.0\.0"):
        flatten(endless)
