"""Which of a model's parameters are its head: by name, or by counting layers from the end."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import Spec
from fedcore.errors import TaskError

__all__ = ["head_of"]


def head_of(layout: Spec, *, layers: int = 1, names: Sequence[str] = ()) -> NDArray[np.bool_]:
    """The head of a model as a mask (D,).

    It is what is called, or lies within what is called, one of `names`; where none is given, the
    last `layers` layers that have parameters.
    Raises: TaskError for a name that is none, or a head that leaves nothing to share.

    >>> from fedcore import nn, ravel
    >>> _, rebuild = ravel(nn.Sequential(nn.Linear(2, 1, key=0), nn.relu, nn.Linear(1, 1, key=1)))
    >>> head_of(rebuild.spec).tolist()
    [False, False, False, True, True]
    """
    owners = list(dict.fromkeys(_owner(entry.path) for entry in layout))
    chosen = tuple(names) or tuple(owners[-layers:])
    for name in names:
        if not any(_within(entry.path, name) for entry in layout):
            raise _unknown(name, [*owners, *(entry.path for entry in layout)])
    head = np.zeros(layout.size, np.bool_)
    for entry in layout:
        if any(_within(entry.path, name) for name in chosen):
            head[entry.offset : entry.offset + entry.size] = True
    if head.all():
        raise TaskError(
            f"a head of {', '.join(map(repr, chosen))} is the whole model",
            why="clients share what is not the head's, and nothing is left",
            fix=f"take fewer of the layers {', '.join(owners)}",
            where="algorithm",
        )
    return head


def _owner(path: str) -> str:
    """The layer that a parameter belongs to."""
    return path.rpartition(".")[0]


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _unknown(name: str, known: Sequence[str]) -> TaskError:
    near = get_close_matches(name[:60], known, n=1, cutoff=0.5)
    return TaskError(
        f"no parameter is called {name!r:.80}, or lies within it",
        why=f"the model has {', '.join(known)}"[:400],
        fix=f"did you mean {near[0]!r}?" if near else "take one of these names",
        where="algorithm.names",
    )
