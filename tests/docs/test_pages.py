"""The documents tell the truth: their code runs, and their tables are what the code computes."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.errors import MessageError, SecAggError, registry
from fedcore.secagg import (
    Block,
    Layout,
    LostAt,
    Profile,
    SecAggClient,
    SecAggServer,
    Stage,
    UploadChunk,
    decode,
    default_layout,
    encode,
    parameters,
    run_session,
)
from fedcore.secagg.effects import Erase, Persist
from fedcore.secagg.loopback import Disk
from tests.conftest import ROOT

DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
OF_THEIR_OWN = {"library.md", "simulation.md"}
"""Whose blocks of Python have a test that knows what they find."""


def named(path: Path) -> str:
    return path.name


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table whose head begins with `heading`."""
    lines = text[text.index(f"| {heading}") :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def guide() -> str:
    return (ROOT / "docs/secure-aggregation.md").read_text("utf-8")


PAGES = [
    # What privacy costs is found by bisection, some of it to many digits: seconds.
    pytest.param(path, marks=pytest.mark.slow) if path.name == "privacy.md" else path
    for path in DOCUMENTS
    if path.name not in OF_THEIR_OWN
]


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_block_of_python_runs_as_pasted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks_of(path.read_text("utf-8"))):
        exec(compile(block, f"{path.name}, block {number + 1}", "exec"), names)


def test_the_written_out_driver_gets_the_sum_and_leaves_only_what_must_stay(
    guide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(guide):
        exec(block, names)
    assert (
        capsys.readouterr().out == f"{np.arange(10) * 4 + 80} (0, 1, 3, 4)\n{np.full(10, 10)} 5\n"
    )
    disks = names["disks"]
    assert isinstance(disks, dict) and len(disks) == 6
    kinds = {key.partition("/")[0] for name, disk in disks.items() if name for key in disk}
    assert kinds == {"tombstone", "release"}


def driver_of(guide: str) -> tuple[dict[str, Any], str]:
    """What the driver of the guide defines, and the block that holds a session with it."""
    *before, session = blocks_of(guide)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in before:
        exec(block, names)
    return names, session


def test_the_written_out_driver_restarts_the_server_and_a_client_within_the_session(
    guide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, session = driver_of(guide)
    restored: list[str] = []
    of_server, of_client = SecAggServer.restore, SecAggClient.restore

    def server(records: Any, **options: Any) -> Any:
        found = of_server(records, **options)  # raises while there is none
        restored.append(found[0].stage.name)
        return found

    def client(self: SecAggClient, records: Any, **options: Any) -> Any:
        effects = of_client(self, records, **options)
        restored.extend(self.stages.values())
        return effects

    monkeypatch.setattr(SecAggServer, "restore", server)
    monkeypatch.setattr(SecAggClient, "restore", client)
    exec(session, names)
    assert restored == ["UPLOADS", "committed"]


def test_the_written_out_driver_asks_again_for_an_upload_that_was_damaged_on_the_way(
    guide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names, session = driver_of(guide)
    serve, spoilt = names["serve"], []

    def spoil(name: bytes, data: bytes) -> Any:
        if not spoilt and isinstance(decode(data), UploadChunk):
            spoilt.append(name)
            data = data[:-1] + bytes([data[-1] ^ 1])
        return serve(name, data)

    names["serve"] = spoil
    exec(session, names)
    assert spoilt and capsys.readouterr().out.endswith(f"{np.full(10, 10)} 5\n")


def test_the_written_out_driver_refuses_a_chunk_that_leaves_a_gap(guide: str) -> None:
    names, session = driver_of(guide)
    serve, gaps = names["serve"], []

    def skip(name: bytes, data: bytes) -> Any:
        message = decode(data)
        if isinstance(message, UploadChunk) and not gaps:
            gaps.append(name)
            late = encode(UploadChunk(message.sid, message.offset + 8, message.data[8:]))
            with pytest.raises(MessageError, match="gap"):
                list(serve(name, late))
        return serve(name, data)

    names["serve"] = skip
    exec(session, names)
    assert gaps


def test_the_written_out_driver_begins_again_from_the_bundles_without_a_roster(guide: str) -> None:
    names, session = driver_of(guide)
    exec(session, names)
    names["disks"][b""].clear()
    server, effects = names["start_server"]()
    assert not effects and server.stage is Stage.PREKEYS
    assert server.advertised == names["enrolled"].keys()


def test_the_table_of_losses_says_whose_vectors_are_in_the_sum(guide: str) -> None:
    table = {name.strip("`"): fate for name, _, fate in rows(guide, "`LostAt.`")}
    assert table.keys() == LostAt.__members__.keys()
    for name, fate in table.items():
        lost = {1: LostAt[name]}
        result = run_session(np.ones((5, 3), np.int64), delta=Fraction(1, 5), dropouts=lost)
        assert (1 in result.survivors) is (fate == "**is in the sum**")


def test_the_ranges_of_integers_are_what_the_code_computes(guide: str) -> None:
    for text in (guide, (ROOT / "docs/library.md").read_text("utf-8")):
        told = re.findall(r"(\d[\d,]*)\s+for\s+(\d+)\b(?!,\d)", text)
        assert len(told) >= 3
        for limit, clients in told:
            block = default_layout(1, int(clients)).blocks[0]
            assert block.limit == int(limit.replace(",", "")), clients


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_file_that_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", path.read_text("utf-8"))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


LINKING = [*DOCUMENTS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]


def anchors(path: Path) -> set[str]:
    """What a link to a heading of the page may end with."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-") for said in headings}


@pytest.mark.parametrize("path", LINKING, ids=named)
def test_every_heading_that_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text("utf-8"))
    for page, anchor in links:
        assert anchor in anchors(path.parent / page if page else path), (page, anchor)


def test_every_document_is_linked_from_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text("utf-8")
    guide = (root / "docs/secure-aggregation.md").read_text("utf-8")
    assert "(docs/secure-aggregation.md)" in readme
    assert [p.name for p in DOCUMENTS if p.name not in readme and f"({p.name})" not in guide] == []


def test_a_profile_is_claimed_in_its_own_words_and_never_as_proven(guide: str) -> None:
    plain = guide.replace("**", "")
    assert all(f'"{profile.claim}"' in plain for profile in Profile)
    assert "argument unreviewed" in guide
    for text in (guide, (ROOT / "README.md").read_text("utf-8")):
        assert not re.search(r"prov(?:en|ably)\s+(?:secure|private|malicious)", text, re.IGNORECASE)


def test_the_table_of_parameters_is_what_the_code_computes(guide: str) -> None:
    table = rows(guide, "profile | n |")
    assert len(table) >= 8
    for profile, n, gamma, delta, sigma, k, v, t, smallest in table:
        found = parameters(
            int(n),
            profile=Profile[profile.partition(",")[0].upper()],
            gamma=Fraction(gamma),
            delta=Fraction(delta),
            sigma=int(sigma),
            eta=30,
            beacon="beacon" in profile,
        )
        shown = (found.degree, found.window, found.threshold, found.minimum_survivors)
        assert shown == (int(k), int(v), int(t), int(smallest)), (profile, n)


def test_the_table_of_slots_is_what_the_code_computes(guide: str) -> None:
    table = rows(guide, "n | slot bits")
    assert len(table) >= 4
    for cells in table:
        n, bits, limit, size = (int(cell.replace(",", "")) for cell in cells)
        layout = Layout((Block(10**6, bits, limit),))
        layout.check_budget(n)
        assert n * (limit + 1) >= 2 ** (bits - 1)  # the largest
        assert layout.upload_bytes == size
        assert bits == 16 or default_layout(10**6, n) == layout


def test_the_tables_name_every_record_that_a_session_writes(
    guide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: set[str] = set()
    perform = Disk.perform

    def note(disk: Disk, effect: Persist | Erase) -> None:
        if isinstance(effect, Persist):
            written.add(re.sub(r"(?<=/)(?:[0-9a-f]{32,}|\d+)", "<>", effect.key))
        perform(disk, effect)

    monkeypatch.setattr(Disk, "perform", note)
    vectors = np.ones((5, 3), np.int64)
    run_session(vectors, delta=Fraction(1, 5), dropouts={1: LostAt.ANSWER})
    cells = [row[0] for head in ("record", "the server's record") for row in rows(guide, head)]
    listed = {re.sub(r"<\w+>", "<>", key) for cell in cells for key in re.findall("`(.+?)`", cell)}
    assert listed - written == {"aborted", "complaint/<>/<>"}  # of sessions that go wrong
    assert written <= listed


def test_the_table_of_errors_lists_every_one_of_them(guide: str) -> None:
    listed = {code: name.strip("`") for code, name, _ in rows(guide, "code | class")}
    ours = {c: e.__name__ for c, e in registry().items() if issubclass(e, SecAggError)}
    assert listed == {code: name for code, name in ours.items() if code != "FED-1400"}
