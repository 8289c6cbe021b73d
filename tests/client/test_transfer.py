"""Cut anywhere, a transfer goes on behind what had arrived, and what arrives is whole."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fedclient import transfer
from fedclient.connection import Connection
from fedclient.identity import DeviceIdentity, authority_pem
from fedclient.join import enrol
from fedclient.stopping import Stop
from fedclient.transfer import _from, download, upload
from fedcore.errors import CancelledError, NotFoundError, RefusedError, TransferError, UploadError
from fedcore.federated.task import Task
from fedcore.v1.common_pb2 import Envelope
from fedcore.wire import channels
from fedcore.wire.envelope import Place, seal
from fedcore.wire.joining import JoinString
from tests.chaos.network.faults import Draw, Fault, Way, constantly
from tests.chaos.network.proxy import FaultProxy
from tests.client.seats import Seat, Upload
from tests.client.server import FakeServer
from tests.variants import mostly_slow

MIB = 2**20
Serve = Callable[..., FakeServer]


@pytest.fixture
def server(serve: Serve, open_task: Task) -> FakeServer:
    return serve(open_task, goal=1)


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as between:
        yield between


def first(*faults: Fault) -> Draw:
    """These befall the first connections, and nothing the later ones."""
    left = iter(faults)
    return lambda draw: next(left, Fault())


@pytest.fixture
def identity(server: FakeServer, tmp_path: Path) -> DeviceIdentity:
    invitation = JoinString.parse(server.join_string)
    return enrol(invitation, folder=tmp_path / "identity", name="", attributes={}, stop=Stop())


def connected(identity: DeviceIdentity, port: int) -> Connection:
    root = authority_pem(identity.membership.authority)
    return Connection(f"127.0.0.1:{port}", root=root, tls=identity.tls)


@pytest.fixture
def connection(identity: DeviceIdentity, proxy: FaultProxy) -> Iterator[Connection]:
    found = connected(identity, proxy.port)
    yield found
    found.close()


def model(server: FakeServer, size: int) -> tuple[bytes, bytes]:
    data = os.urandom(size)
    digest = hashlib.sha256(data).digest()
    server.models[digest] = data
    return digest, data


def fetch(connection: Connection, digest: bytes, size: int, folder: Path) -> tuple[Path, int]:
    moved: list[int] = []
    path = download(
        connection,
        digest,
        size=size,
        folder=folder,
        stop=Stop(),
        moved=lambda count, size: moved.append(count),
    )
    return path, sum(moved)


@pytest.mark.parametrize("size", [1, MIB, 3 * MIB + 17])
def test_a_download_is_what_was_named(
    server: FakeServer, connection: Connection, tmp_path: Path, size: int
) -> None:
    digest, data = model(server, size)
    path, moved = fetch(connection, digest, size, tmp_path / "models")
    assert path.read_bytes() == data and moved == size
    assert fetch(connection, digest, size, tmp_path / "models") == (path, 0)


@pytest.mark.parametrize("cut", mostly_slow([1_500_000, 10_000, 4_000_000]))
def test_a_download_that_is_cut_goes_on_where_it_was(
    server: FakeServer, connection: Connection, proxy: FaultProxy, tmp_path: Path, cut: int
) -> None:
    digest, data = model(server, 6 * MIB)
    # At the first cut at most three of the six chunks are whole, so the second is always reached.
    proxy.draw = first(Fault(reset_after=cut), Fault(reset_after=min(cut, 2 * MIB)))
    path, moved = fetch(connection, digest, len(data), tmp_path / "models")
    assert proxy.resets == 2 and moved == len(data)
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def test_a_download_goes_on_after_a_restart_of_the_program(
    server: FakeServer, connection: Connection, tmp_path: Path
) -> None:
    digest, data = model(server, 5 * MIB)
    folder, stop, seen = tmp_path / "models", Stop(), []

    def moved(count: int, size: int) -> None:
        seen.append(count)
        if sum(seen) >= 2 * MIB:
            stop.set()

    with pytest.raises(CancelledError):
        download(connection, digest, size=len(data), folder=folder, stop=stop, moved=moved)
    path, later = fetch(connection, digest, len(data), folder)
    assert path.read_bytes() == data and sum(seen) + later == len(data)


def test_a_damaged_partial_file_is_found_out_and_fetched_again(
    server: FakeServer, connection: Connection, tmp_path: Path
) -> None:
    digest, data = model(server, 2 * MIB)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / f"{digest.hex()}.part").write_bytes(bytes(MIB))
    path, _ = fetch(connection, digest, len(data), folder)
    assert path.read_bytes() == data


def test_a_server_that_sends_another_model_is_refused(
    server: FakeServer, connection: Connection, tmp_path: Path
) -> None:
    digest, data = model(server, 1000)
    server.models[digest] = data[::-1]
    with pytest.raises(TransferError, match="not the one"):
        fetch(connection, digest, len(data), tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_device_keeps_one_model(
    server: FakeServer, connection: Connection, tmp_path: Path
) -> None:
    for _ in range(3):
        digest, data = model(server, 1000)
        path, _ = fetch(connection, digest, len(data), tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == [path]


# Uploads.


class Update:
    """An update of so many random bytes, cut in pieces, for the one seat of a client."""

    def __init__(self, server: FakeServer, identity: DeviceIdentity, size: int) -> None:
        self.data, self.server, self.identity = os.urandom(size), server, identity
        client = identity.membership.client_id
        self.seat = Seat(client, os.urandom(16), 0, 1, os.urandom(32))
        server.seats[self.seat.assignment_id] = self.seat
        server.manual = True

    def source(self) -> Iterator[tuple[int, bytes]]:
        for offset in range(0, len(self.data), MIB):
            yield offset, self.data[offset : offset + MIB]

    def seal(self, payload: bytes) -> Envelope:
        signing = self.identity.signing
        place = Place("t1", self.seat.round, self.seat.attempt, self.seat.nonce)
        return seal(
            payload,
            method="UploadService.Commit",
            place=place,
            sign=signing.sign,
            key=signing.certificate.key,
        )

    def send(self, connection: Connection, *, stop: Stop | None = None) -> int:
        moved: list[int] = []
        upload(
            connection,
            self.seat.assignment_id,
            size=len(self.data),
            header=b"",
            source=self.source,
            seal=self.seal,
            stop=stop or Stop(),
            moved=lambda count, size: moved.append(count),
        )
        return sum(moved)

    @property
    def upload(self) -> Upload:
        assert self.seat.upload is not None
        return self.seat.upload


@pytest.mark.parametrize("size", [1, MIB, 3 * MIB + 5])
def test_an_upload_arrives_whole_and_once(
    server: FakeServer, identity: DeviceIdentity, connection: Connection, size: int
) -> None:
    update = Update(server, identity, size)
    assert update.send(connection) == size
    assert update.upload.sealed and update.upload.data == update.data
    assert update.send(connection) == 0


def test_small_chunks_are_cut_as_the_server_wants_them(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    server.chunk_bytes = 100_000
    update = Update(server, identity, MIB + 1)
    update.send(connection)
    assert update.upload.data == update.data
    assert max(length for _, length in update.upload.arrived) == 100_000


@pytest.mark.parametrize("cut", mostly_slow([1_500_000, 10_000, 4_000_000]))
def test_an_upload_that_is_cut_sends_nothing_again_that_was_committed(
    server: FakeServer,
    identity: DeviceIdentity,
    connection: Connection,
    proxy: FaultProxy,
    cut: int,
) -> None:
    update = Update(server, identity, 6 * MIB)
    committed: list[int] = []
    answered = server.Begin

    def begin(client: bytes, request: object) -> object:
        response = answered(client, request)
        committed.append(response.committed_offset)
        update.upload.arrived.append((-1, response.committed_offset))
        return response

    server.Begin = begin  # type: ignore[method-assign]
    proxy.draw = first(Fault(reset_after=cut))
    assert update.send(connection) == len(update.data)  # what came is told, answered or not
    assert proxy.resets == 1
    assert hashlib.sha256(update.upload.data).digest() == hashlib.sha256(update.data).digest()
    behind = 0
    for offset, length in update.upload.arrived:
        behind = length if offset < 0 else behind
        assert offset < 0 or offset >= behind
    assert len(committed) >= 2


def test_an_upload_is_stopped_between_its_pieces(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    update, stop = Update(server, identity, 8 * MIB), Stop()
    server.after = lambda method, client: stop.set() if method == "PutChunk" else None
    with pytest.raises(CancelledError):
        update.send(connection, stop=stop)
    assert not update.upload.sealed
    server.after = lambda method, client: None
    update.send(connection)
    assert update.upload.data == update.data


def test_a_server_that_refuses_an_upload_for_good_is_not_asked_for_ever(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    update = Update(server, identity, 1000)

    def refuse(method: str, client: bytes) -> None:
        if method == "PutChunk":
            raise UploadError("too large", why="it is")

    server.before = refuse
    with pytest.raises(UploadError):
        update.send(connection)
    assert server.calls["Begin"] == 3


def test_an_upload_that_a_restarted_server_has_not_open_is_begun_again(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    update, forgotten = Update(server, identity, 8 * MIB), threading.Event()

    def forget(method: str, client: bytes) -> None:
        if server.calls["PutChunk"] >= 3 and not forgotten.is_set():
            forgotten.set()
            raise NotFoundError("the upload is not open", fix="begin the upload")

    server.before = forget
    update.send(connection)
    assert update.upload.data == update.data and server.calls["Begin"] == 2


def test_a_source_of_another_size_is_never_sealed(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    update = Update(server, identity, 1000)
    update.source = lambda: iter([(0, bytes(500))])  # type: ignore[method-assign]
    with pytest.raises((TransferError, RefusedError)):
        update.send(connection)
    assert not update.upload.sealed


@given(
    st.lists(st.integers(1, 20), max_size=6),
    st.integers(0, 130),
    st.integers(1, 9),
)
def test_what_is_left_of_a_source_is_its_end(lengths: list[int], start: int, largest: int) -> None:
    data = bytes(range(sum(lengths)))
    places = [sum(lengths[:i]) for i in range(len(lengths))]
    source = [(place, data[place : place + n]) for place, n in zip(places, lengths, strict=True)]
    whole = hashlib.sha256()
    found = list(_from(source, start, whole, largest))
    assert b"".join(piece for _, piece in found) == data[start:]
    assert all(0 < len(piece) <= largest for _, piece in found)
    assert all(data[offset : offset + len(piece)] == piece for offset, piece in found)
    assert whole.digest() == hashlib.sha256(data).digest()


def test_a_stop_ends_a_call_that_waits(
    server: FakeServer, identity: DeviceIdentity, connection: Connection
) -> None:
    from fedcore.v1.client_service_pb2 import GetTaskRequest

    gate = threading.Event()
    server.before = lambda method, client: gate.wait(20) and None
    stop = Stop()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CancelledError):
        connection.call(connection.clients.GetTask, GetTaskRequest(), stop=stop)
    gate.set()


def test_a_server_waits_for_a_piece_as_long_as_its_device_does() -> None:
    assert channels.LONGEST_MESSAGE_S >= transfer._PIECE_S


@pytest.mark.parametrize("way", mostly_slow(["down", "up"]))
def test_a_connection_that_brings_nothing_back_is_left_long_before_its_calls_are_late(
    server: FakeServer,
    identity: DeviceIdentity,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    known = channels.client_options
    short = {"grpc.keepalive_time_ms": 1_000, "grpc.http2.ping_timeout_ms": 500}

    def options(**given: bool) -> channels.Options:
        return tuple({**dict(known(**given)), **short}.items())

    monkeypatch.setattr(channels, "client_options", options)
    proxy.draw = first(Fault(lost=way, lost_after=100_000))
    connection, begun_s = connected(identity, proxy.port), time.monotonic()
    if way == "up":
        update = Update(server, identity, 2 * MIB)
        update.send(connection)
        assert update.upload.data == update.data
    else:
        digest, data = model(server, 2 * MIB)
        path, _ = fetch(connection, digest, len(data), tmp_path / "models")
        assert path.read_bytes() == data
    connection.close()
    assert len(proxy.faults) >= 2
    assert time.monotonic() - begun_s < 30 < transfer._PIECE_S


@pytest.mark.slow
def test_a_handshake_that_takes_its_time_is_not_begun_anew(
    server: FakeServer, connection: Connection, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Or a line on which it takes longer than the patience for it could never be used."""
    proxy.draw = constantly(Fault(delay_s=(0.4, 0.4)))
    digest, data = model(server, 1000)
    path, _ = fetch(connection, digest, len(data), tmp_path / "models")
    assert path.read_bytes() == data and len(proxy.faults) == 1


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_too_slow_for_large_pieces_gets_small_ones(
    server: FakeServer,
    identity: DeviceIdentity,
    connection: Connection,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
) -> None:
    update = Update(server, identity, 300_000)
    digest, data = model(server, 300_000)
    monkeypatch.setattr(transfer, "_PIECE_S", 0.25)
    proxy.draw = constantly(Fault(bytes_per_s=400_000))
    if direction == "down":
        path, _ = fetch(connection, digest, len(data), tmp_path / "models")
        assert path.read_bytes() == data
        return
    update.send(connection)
    assert update.upload.sealed and update.upload.data == update.data
    assert min(length for _, length in update.upload.arrived) < 100_000
