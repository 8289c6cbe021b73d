"""The ring is the one that the protocol draws, and the window check means what it must mean."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import AxisError, DtypeError, FedcoreError, ParameterError, ShapeError
from fedcore.secagg import graph as graph_module
from fedcore.secagg.graph import Graph, build_graph
from tests.variants import mostly_slow

ROOT = bytes(range(32))
Masks = NDArray[np.int64]


@st.composite
def graphs(draw: st.DrawFn, largest: int = 80) -> Graph:
    n = draw(st.integers(2, largest))
    complete = n == 2 or draw(st.booleans())
    degree = n - 1 if complete else 2 * draw(st.integers(1, (n - 1) // 2))
    return build_graph(
        draw(st.binary(min_size=32, max_size=32)), n, degree=degree, complete=complete
    )


# --- the ring -----------------------------------------------------------------------------------


@given(graphs())
def test_a_graph_is_symmetric_and_regular_without_loops(graph: Graph) -> None:
    neighbours = [graph.neighbours(i).tolist() for i in range(graph.n)]
    for i, near in enumerate(neighbours):
        assert len(near) == graph.degree
        assert near == sorted(set(near) - {i})
        assert all(i in neighbours[j] for j in near)


@given(graphs())
def test_neighbours_are_the_clients_at_ring_distance_up_to_half_the_degree(graph: Graph) -> None:
    ring = graph.order.tolist()
    assert [ring[p] for p in graph.positions] == list(range(graph.n))
    for i in range(graph.n):
        distances = {
            j: min((ring.index(i) - p) % graph.n, (p - ring.index(i)) % graph.n)
            for p, j in enumerate(ring)
        }
        near = [
            j for j, d in distances.items() if d > 0 and (graph.complete or 2 * d <= graph.degree)
        ]
        assert graph.neighbours(i).tolist() == sorted(near)


def order_by_integers(root: bytes, n: int) -> list[int]:
    """The ring of section 3 of the protocol, from SHA-256 and single AES blocks."""
    parts = (b"fedcore/secagg/v1/graph", root)
    g = hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()
    block = Cipher(algorithms.AES128(g[:16]), modes.ECB()).encryptor()
    counter = int.from_bytes(g[16:], "big")
    keys = [
        int.from_bytes(block.update(((counter + i) % 2**128).to_bytes(16, "big")), "little")
        for i in range(n)
    ]
    return sorted(range(n), key=lambda i: (keys[i], i))


@given(st.binary(min_size=32, max_size=32), st.integers(3, 100))
def test_the_ring_is_sorted_by_the_integers_of_the_keystream(root: bytes, n: int) -> None:
    graph = build_graph(root, n, degree=2, complete=False)
    assert graph.order.tolist() == order_by_integers(root, n)


def test_the_ring_of_a_root_is_frozen() -> None:
    ring = build_graph(ROOT, 12, degree=4, complete=False)
    assert ring.order.tolist() == [3, 6, 5, 10, 11, 4, 1, 7, 9, 8, 0, 2]
    assert ring.neighbours(0).tolist() == [2, 3, 8, 9]


@given(st.lists(st.integers(0, 3), min_size=3, max_size=40))
def test_equal_keys_stand_in_the_order_of_their_indices(draws: list[int]) -> None:
    # Each half of a key is 0 or 1, so that either decides, and many keys are equal.
    keys = [(draw >> 1) << 64 | draw & 1 for draw in draws]
    stream = b"".join(key.to_bytes(16, "little") for key in keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_module, "_keystream", lambda seed, size: stream[:size])
        graph = build_graph(ROOT, len(keys), degree=2, complete=False)
    assert graph.order.tolist() == sorted(range(len(keys)), key=lambda i: (keys[i], i))


@pytest.mark.parametrize(("n", "orders"), mostly_slow([(4, 24), (5, 120)]))
def test_every_order_of_the_ring_is_equally_likely(n: int, orders: int) -> None:
    trials = 100 * orders
    seen = Counter(
        tuple(build_graph(i.to_bytes(32, "big"), n, degree=2, complete=False).order.tolist())
        for i in range(trials)
    )
    expected = trials / orders
    chi_square = sum((seen[order] - expected) ** 2 / expected for order in seen)
    chi_square += expected * (orders - len(seen))
    freedom = orders - 1
    # The mean of χ² is its degrees of freedom, the variance twice that: five deviations.
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


# --- the window check ---------------------------------------------------------------------------


@given(graphs(largest=24), st.data())
def test_the_check_counts_members_in_every_window(graph: Graph, data: st.DataObject) -> None:
    members = np.array(data.draw(st.lists(st.booleans(), min_size=graph.n, max_size=graph.n)))
    half = graph.degree // 2
    fewest = min(
        sum(int(members[graph.order[(p + q) % graph.n]]) for q in range(half))
        for p in range(graph.n)
    )
    for minimum in range(half + 2):
        assert graph.windows_hold(members, minimum) == (graph.complete or fewest >= minimum)


def connected_subsets(graph: Graph) -> NDArray[np.bool_]:
    """For each set of clients as a bit mask: whether the graph within it hangs together."""
    sets: Masks = np.arange(2**graph.n)
    near = [sum(1 << int(j) for j in graph.neighbours(i)) for i in range(graph.n)]
    reached, before = sets & -sets, np.zeros_like(sets)
    while not np.array_equal(reached, before):
        before = reached
        for i, others in enumerate(near):
            reached = reached | np.where(reached >> i & 1, others, 0) & sets
    return reached == sets


def bits(mask: int, n: int) -> NDArray[np.bool_]:
    return (mask >> np.arange(n) & 1).astype(np.bool_)


@pytest.mark.parametrize(
    ("n", "degree"),
    [
        pytest.param(n, degree, marks=pytest.mark.slow if n > 11 else ())
        for n in range(3, 15)
        for degree in range(2, n, 2)
    ],
)
def test_survivors_in_every_window_are_connected(n: int, degree: int) -> None:
    graph = build_graph(n.to_bytes(32, "big"), n, degree=degree, complete=False)
    passed = np.array([graph.windows_hold(bits(mask, n), 1) for mask in range(2**n)])
    connected = connected_subsets(graph)
    assert connected[passed].all()
    assert passed.any()
    # So that this could fail: unless all are neighbours, some sets are cut, and were refused.
    assert connected.all() == (degree == n - 1)


def fewest_and_most(graph: Graph) -> tuple[Masks, Masks]:
    """For each set of clients: the fewest and the most of them in a window, by counting."""
    half, sets = graph.degree // 2, np.arange(2**graph.n)
    around = np.array([sets >> int(client) & 1 for client in graph.order])
    counts = sum(np.roll(around, -q, axis=0) for q in range(half))
    return np.min(counts, axis=0), np.max(counts, axis=0)


@pytest.mark.parametrize(("n", "degree"), [(n, k) for n in range(3, 11) for k in range(2, n, 2)])
def test_honest_survivors_are_connected_whoever_is_corrupt_and_lost(n: int, degree: int) -> None:
    graph = build_graph(n.to_bytes(32, "big"), n, degree=degree, complete=False)
    connected = connected_subsets(graph)
    fewest, most = fewest_and_most(graph)
    for v in range(1, degree // 2 + 1):
        corrupt = np.flatnonzero(most < v)
        survivors = np.flatnonzero(fewest >= v)
        assert all(graph.windows_hold(bits(int(mask), n), v) for mask in survivors)
        honest = survivors[:, None] & ~corrupt
        assert honest.all()
        assert connected[honest].all()
        weaker = np.flatnonzero(fewest >= v - 1)
        # So that this could fail: unless all are neighbours, one survivor fewer would not do.
        assert connected[weaker[:, None] & ~corrupt].all() == (degree == n - 1)


def parts(graph: Graph, members: set[int]) -> int:
    """The number of components of the graph within a set."""
    rest, found = set(members), 0
    while rest:
        found += 1
        pending = [rest.pop()]
        while pending:
            near = rest.intersection(graph.neighbours(pending.pop()).tolist())
            rest -= near
            pending += near
    return found


def test_honest_survivors_of_larger_rings_are_connected() -> None:
    random = np.random.default_rng(7)
    refused = 0
    for case in range(60):
        n = int(random.integers(20, 120))
        half = int(random.integers(2, n // 4))
        v = int(random.integers(1, half + 1))
        graph = build_graph(case.to_bytes(32, "big"), n, degree=2 * half, complete=False)
        # The strongest adversary: it corrupts, then drops, whatever the bounds let it.
        corrupt = np.zeros(n, np.bool_)
        for client in random.permutation(n):
            corrupt[client] = True
            corrupt[client] = graph.windows_hold(~corrupt, half - v + 1)
        survivors = np.ones(n, np.bool_)
        for client in np.roll(graph.order, int(random.integers(n))):
            if not corrupt[client]:
                survivors[client] = False
                survivors[client] = not graph.windows_hold(survivors, v)
        assert graph.windows_hold(survivors, v)
        honest = survivors & ~corrupt
        assert parts(graph, set(np.flatnonzero(honest).tolist())) == 1
        first = np.flatnonzero(honest[graph.order])
        gap = [graph.order[(first[0] + q) % n] for q in range(half)]
        opposite = [graph.order[(first[0] + n // 2 + q) % n] for q in range(half)]
        survivors[gap + opposite] = False
        cut = parts(graph, set(np.flatnonzero(survivors & ~corrupt).tolist()))
        if cut > 1:
            assert not graph.windows_hold(survivors, v)
            refused += 1
    assert refused > 20


def test_a_complete_graph_has_no_windows_to_check() -> None:
    graph = build_graph(ROOT, 9, degree=8, complete=True)
    assert graph.windows_hold(np.zeros(9, np.bool_), 5)
    assert graph.neighbours(3).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "degree", "complete"),
    [
        (1, 0, True),
        (0, 0, False),
        (-4, 2, False),
        (1025, 100, False),
        (10**12, 100, False),
        (10, 3, False),
        (10, 0, False),
        (10, -2, False),
        (10, 10, False),
        (10, 8, True),
        (10, 10, True),
        (2, 2, False),
    ],
)
def test_a_graph_that_cannot_be_is_refused(n: int, degree: int, complete: bool) -> None:
    with pytest.raises(ParameterError) as refusal:
        build_graph(ROOT, n, degree=degree, complete=complete)
    assert complete or not 2 <= n <= 1024 or f"there are {n - 1} others" in refusal.value.why


@pytest.mark.parametrize("root", [b"", bytes(31), bytes(33)])
def test_a_root_is_a_digest(root: bytes) -> None:
    with pytest.raises(ParameterError, match="32"):
        build_graph(root, 8, degree=2, complete=False)


@pytest.mark.parametrize("client", [-1, 8])
@pytest.mark.parametrize("complete", [False, True])
def test_a_stranger_has_no_neighbours(client: int, complete: bool) -> None:
    graph = build_graph(ROOT, 8, degree=7 if complete else 4, complete=complete)
    with pytest.raises(AxisError):
        graph.neighbours(client)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        (np.ones(7, np.bool_), ShapeError),
        (np.ones((8, 1), np.bool_), ShapeError),
        (np.arange(8), DtypeError),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_members_are_one_bool_a_client(
    members: Any, error: type[FedcoreError], complete: bool
) -> None:
    graph = build_graph(ROOT, 8, degree=7 if complete else 4, complete=complete)
    with pytest.raises(error):
        graph.windows_hold(members, 1)


def test_nobody_can_move_a_client_on_the_ring() -> None:
    graph = build_graph(ROOT, 8, degree=4, complete=False)
    for array in (graph.order, graph.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
