"""Shakespeare's plays, a client for each speaking role: which character comes next.

Source: H. B. McMahan et al., "Communication-efficient learning of deep networks from decentralized
data" (AISTATS 2017), section 3; S. Caldas et al., "LEAF" (2018).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.data.source import read_bytes
from fedcore.errors import DataFormatError, DatasetError
from fedcore.settings import Bounds
from fedsim.sources.files import place_of, sole_file
from fedsim.sources.held_out import HeldOut
from fedsim.sources.source import Source

__all__ = ["CHARACTERS", "Shakespeare"]

CHARACTERS: Final = ("", "\n", *map(chr, range(32, 127)))
"""What each code stands for: 0 is any other character, 1 a new line, then printable ASCII.

The same for everybody, whatever a client's own text holds: nothing has to be agreed on.
"""

_CODES: Final = np.zeros(128, np.uint8)
_CODES[[ord(character) for character in CHARACTERS[1:]]] = np.arange(1, len(CHARACTERS))
_FILE: Final = "shakespeare_37plays_by_role.json"
_OFFICIAL: Final = (
    "the plays from Project Gutenberg, for example by way of LEAF's preprocessing, as JSON of the "
    "form {play: {role: [speech, …]}}"
)


class _Role(NamedTuple):
    name: str
    text: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Shakespeare(HeldOut):
    """Windows of `length` characters of what each role says, every `step` characters.

    A role's speeches are joined by new lines, and no window crosses two roles; roles with fewer
    than `minimum` characters are left out. ids: the roles, "play: ROLE". Characters are the codes
    of `CHARACTERS`, of which there are 97.
    `target`: "next" for the character after the window, y (N,), which layers embedding, lstm,
    last_step, linear predict; "every" for the one after each character, y (N, length), which
    layers embedding, lstm, every_step, linear predict; instead of lstm and every_step also
    transformer_encoder with `causal`. x (N, length) uint8 codes for an embedding; y int64.

    Held out are windows of the last share of each role's text: none of their characters is
    trained on. With `held_out_clients` whole roles.
    """

    path: str
    length: Annotated[int, Bounds(least=1, most=100_000)] = 80
    step: Annotated[int, Bounds(least=1)] = 20
    minimum: Annotated[int, Bounds(least=1)] = 1000
    target: Literal["next", "every"] = "next"

    def load(self, base: Path) -> Source:
        """The file `shakespeare_37plays_by_role.json` in the folder `path`, or `path` itself."""
        path = sole_file(place_of(base, self.path), _FILE, official=_OFFICIAL)
        least = max(self.minimum, self.length + 1)
        roles = [role for role in _roles(path) if len(role.text) >= least]
        if not roles:
            raise DatasetError(
                f"{path.name}: no role has {least} characters",
                where=str(path),
                why="a window and the character after it are said by one role",
                fix="take a smaller minimum and length",
            )
        if self.held_out_clients:
            names = np.array([role.name for role in roles])
            tested = self.tested_clients(names, "shakespeare").tolist()
            train = [role for role, held in zip(roles, tested, strict=True) if not held]
            test = [role for role, held in zip(roles, tested, strict=True) if held]
        else:
            cuts = [self._cut(len(role.text)) for role in roles]
            train = [_Role(r.name, r.text[:cut]) for r, cut in zip(roles, cuts, strict=True)]
            test = [_Role(r.name, r.text[cut:]) for r, cut in zip(roles, cuts, strict=True)]
        data, ids = self._windows(train)
        source = Source(data, ids=ids, classes=len(CHARACTERS), class_names=CHARACTERS)
        if not any(len(role.text) > self.length for role in test):
            return source
        held, test_ids = self._windows(test)
        return Source(data, held, ids, test_ids, classes=len(CHARACTERS), class_names=CHARACTERS)

    def _cut(self, characters: int) -> int:
        """Where a role's text to test on begins: after one window to train on at least."""
        return max(characters - round(self.held_out * characters), self.length + 1)

    def _windows(self, roles: list[_Role]) -> tuple[Dataset, NDArray[Any]]:
        last = np.cumsum([len(role.text) for role in roles])
        text = np.concatenate([role.text for role in roles])
        counts = [max(len(r.text) - self.length - 1, -1) // self.step + 1 for r in roles]
        starts = np.concatenate(
            [
                end - len(role.text) + self.step * np.arange(count)
                for end, role, count in zip(last, roles, counts, strict=True)
            ]
        ).astype(np.intp)
        places = starts[:, np.newaxis] + np.arange(self.length)
        following = places + 1 if self.target == "every" else starts + self.length
        data = Dataset(text[places], text[following].astype(np.int64), "shakespeare")
        return data, np.repeat(np.array([role.name for role in roles]), counts)


def _roles(path: Path) -> Iterator[_Role]:
    """Every role with its text as codes, in the file's order."""
    try:
        plays = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _unfit(path, "the file", f"it is no JSON: {error}"[:300], line) from None
    if not isinstance(plays, dict):
        raise _unfit(path, "the file", "it is no table of plays")
    for play, roles in plays.items():
        if not isinstance(roles, dict):
            raise _unfit(path, f"play {play!r:.80}", "it is no table of roles")
        for role, speeches in roles.items():
            if not isinstance(speeches, list) or not all(isinstance(s, str) for s in speeches):
                raise _unfit(path, f"play {play!r:.80}, role {role!r:.80}", "not a list of texts")
            yield _Role(f"{play}: {role}", _encoded("\n".join(speeches)))


def _encoded(text: str) -> NDArray[np.uint8]:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.where(points < len(_CODES), _CODES[np.minimum(points, len(_CODES) - 1)], 0)


def _unfit(path: Path, place: str, why: str, line: str = "") -> DataFormatError:
    return DataFormatError(
        f"{path.name} holds no speeches by play and role",
        where=f"{path}{line}" if line else f"{path}: {place}",
        why=why,
        fix="write JSON of the form {play: {role: [speech, …]}}",
    )
