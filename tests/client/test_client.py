"""The client against this project's server, plain and extended, and against servers that are sick or gone."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from lms_tiers import ChunkMeta, CreateStorageBackend, LMSLocalBackend, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ConfigError,
    ForkedProcessError,
    InvalidBufferError,
    InvalidChunkError,
    InvalidKeyError,
    StorageUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from lms_tiers.messages import ClientMetaMessage
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from tests.server.peer import wait_until


def item(key: str, body: bytes, dtype: str = "int8") -> tuple[ClientMetaMessage, bytearray]:
    meta = ChunkMeta(len(body), MemoryFormat.KV_2LTD, dtype, (1, 0, len(body), 1, 1))
    return meta.message(OpaqueKey(key)), bytearray(body)


def plain_item(key: str, body: bytes) -> tuple[ClientMetaMessage, bytearray]:
    meta = ChunkMeta(len(body), MemoryFormat.KV_2LTD, "uint8", (1, len(body)))
    return meta.message(OpaqueKey(key)), bytearray(body)


def start(backend: LMSLocalBackend, port: int = 0) -> Server:
    return Server(backend, make_settings(None, {"port": port, "threads": 4, "max_chunk": "4MiB"}))


@pytest.fixture
def backend() -> Iterator[LMSLocalBackend]:
    with LMSLocalBackend() as held:
        yield held


@pytest.fixture
def server(backend: LMSLocalBackend) -> Iterator[Server]:
    with start(backend) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def keys(*texts: str) -> list[OpaqueKey]:
    return [OpaqueKey(text) for text in texts]


def test_any_key_and_any_metadata_come_back_as_they_were(client: Client) -> None:
    texts = ["a", "a ", " a", "a\n", "é", "e\u0301", "k" * 5000]
    client.put_many([item(text, bytes([i]) * i) for i, text in enumerate(texts)])
    found = client.get_many(keys(*texts, "absent"))
    assert found[-1] is None
    for i, obj in enumerate(found[:-1]):
        assert obj is not None
        assert bytes(obj.data) == bytes([i]) * i
        assert (str(obj.dtype), tuple(obj.shape)) == ("torch.int8", (1, 0, i, 1, 1))
    assert sorted(k.to_string() for k in client.list_keys()) == sorted(texts)
    assert {c.key.to_string(): c.meta.length for c in client.scan()} == {t: i for i, t in enumerate(texts)}


def test_batches_larger_than_the_window_keep_their_order(client: Client) -> None:
    texts = [f"k{i}" for i in range(150)]
    client.put_many([item(text, text.encode()) for text in texts])
    assert [bytes(o.data) if o else None for o in client.get_many(keys(*texts))] == [t.encode() for t in texts]
    assert client.contains_prefix(keys(*texts, "absent", "k0")) == 150
    client.remove_many(keys(*texts[100:]))
    assert client.contains_prefix(keys(*texts)) == 100
    client.remove(OpaqueKey("never there"))


class Limited(LMSLocalBackend):
    """Full for one key."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        if client_meta.key.to_string() == "full":
            raise CapacityError("here", 5, 3)
        super().put(client_meta, kv_chunk_bytes)


def test_in_a_batch_nothing_after_a_failure_is_stored_and_the_error_is_the_servers() -> None:
    with Limited() as backend, start(backend) as server, Client(server.address) as client:
        items = [item(k, b"x") for k in ("a", "b", "full", "c", "d")]
        with pytest.raises(CapacityError) as caught:
            client.put_many(items)
        assert (caught.value.needed, caught.value.free) == (5, 3)
        assert [k.to_string() for k in backend.list_keys()] == ["a", "b"]
        client.put_many([item("e", b"x"), item("f", b"x")])
        assert len(backend.list_keys()) == 4


def test_what_cannot_be_sent_is_a_typed_error_and_stores_what_came_before(
    client: Client, backend: LMSLocalBackend
) -> None:
    with pytest.raises(ValueTooLargeError):
        client.put_many([item("a", b"x"), item("b", bytes(5 * 2**20)), item("c", b"x")])
    assert [k.to_string() for k in backend.list_keys()] == ["a"]
    with pytest.raises(InvalidKeyError):
        client.put(*item("", b"x"))
    with pytest.raises(InvalidKeyError):
        client.get(OpaqueKey("k" * 70_000))
    wrong, data = item("w", b"xyz")
    with pytest.raises(InvalidChunkError):
        client.put(wrong, data + b"!")


def test_get_into_fills_the_callers_buffer_or_leaves_it(client: Client) -> None:
    client.put(*item("k", b"abcdef"))
    buffer = bytearray(8)
    meta = client.get_into(OpaqueKey("k"), buffer)
    assert meta is not None
    assert buffer == b"abcdef\0\0"
    small = bytearray(b"....")
    with pytest.raises(InvalidBufferError):
        client.get_into(OpaqueKey("k"), small)
    assert small == b"...."
    assert client.get_into(OpaqueKey("absent"), buffer) is None
    assert client.contains(OpaqueKey("k"))


def test_damaged_bytes_are_a_miss_and_a_counter(backend: LMSLocalBackend) -> None:
    with _middleman(start(backend)) as (port, damage), Client(f"127.0.0.1:{port}") as client:
        client.put(*item("k", bytes(1000)))
        damage.set()
        assert client.get(OpaqueKey("k")) is None
        assert client.stats().corrupt == 1
        with pytest.raises(StorageUnavailableError, match="damaged"):
            client.put(*item("other", bytes(1000)))
        damage.clear()
        assert client.get(OpaqueKey("k")) is not None
        assert client.get(OpaqueKey("other")) is None


def test_lmcaches_protocol_serves_what_it_can_and_refuses_the_rest(server: Server) -> None:
    with Client(server.address, extension=False) as client:
        client.put_many([plain_item(f"k{i}", bytes([i]) * 10) for i in range(50)])
        assert len(client.list_keys()) == 50
        assert [o.data[0] for o in client.get_many(keys("k3", "k49")) if o] == [3, 49]
        assert not client.capabilities.remove
        with pytest.raises(UnsupportedError):
            client.remove(OpaqueKey("k1"))
        with pytest.raises(InvalidChunkError):
            client.put(*item("k", b"x"))
        with pytest.raises(InvalidKeyError):
            client.put(*plain_item("ends in a blank ", b"x"))
        client.flush()
        assert client.contains_prefix(keys("k0", "k1", "absent")) == 2


def test_a_server_that_leaves_list_unanswered_is_told_apart() -> None:
    with _lmcache_like() as port, Client(f"127.0.0.1:{port}") as client:
        client.put(*plain_item("k", b"abc"))
        assert client.contains(OpaqueKey("k"))
        with pytest.raises(UnsupportedError, match="list_keys"):
            client.list_keys()


def test_a_server_that_is_gone_is_misses_and_errors_and_is_found_again(backend: LMSLocalBackend) -> None:
    server = start(backend)
    port = server.port
    with Client(server.address, timeout=60) as client:
        client.put(*item("k", b"v"))
        server.close()
        assert client.get(OpaqueKey("k")) is None
        assert not client.contains(OpaqueKey("k"))
        for call in (lambda: client.put(*item("k", b"w")), client.list_keys, lambda: client.remove(OpaqueKey("k"))):
            with pytest.raises(StorageUnavailableError):
                call()
        assert client.stats().failures >= 5
        with start(backend, port):
            wait_until(lambda: client.get(OpaqueKey("k")) is not None)
            client.put(*item("k", b"new"))
            found = client.get(OpaqueKey("k"))
            assert found is not None
            assert found.data == b"new"


def test_a_server_that_is_not_there_is_an_error_at_once_unless_lazy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        Client(f"lm://127.0.0.1:{port}")
    with Client(f"lm://127.0.0.1:{port}", lazy=True) as client:
        assert client.get(OpaqueKey("k")) is None


def test_closed_means_closed_also_for_a_call_under_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", lazy=True, extension=False, timeout=30)
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.get(OpaqueKey("k"))
            except BackendClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        peer, _ = silent.accept()
        with peer:
            peer.recv(186)
            client.close()
            client.close()
            thread.join(60)
        assert len(errors) == 1
    with pytest.raises(BackendClosedError):
        client.contains(OpaqueKey("k"))


def test_many_threads_share_few_connections(client: Client) -> None:
    wrong: list[int] = []

    def work(n: int) -> None:
        for i in range(40):
            body = struct.pack("<II", n, i) * 500
            client.put(*item(f"{n}", body))
            found = client.get(OpaqueKey(f"{n}"))
            if found is None or bytes(found.data) != body:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert client.stats().detail["connects"] <= 4


def test_a_forked_child_is_refused(client: Client) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.contains(OpaqueKey("k"))
            os.write(write, b"served")
        except ForkedProcessError:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20) == b"refused"
    os.close(read)
    os.close(write)
    assert not client.contains(OpaqueKey("k"))


@pytest.mark.parametrize("text", ["", "lm://", "host:port", "host:99999", "lm+unix://", "a/b:1"])
def test_what_is_no_address_is_a_typed_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Client(text)


def test_the_device_text_opens_a_client_and_a_store_has_it_as_its_lowest_tier(server: Server) -> None:
    with CreateStorageBackend(f"lm:127.0.0.1:{server.port}?timeout=60") as bare:
        assert isinstance(bare, Client)
    device = f"cpu?capacity=64KiB > lm:127.0.0.1:{server.port}"
    with CreateStorageBackend(device) as store:
        for i in range(64):
            store.put(*item(f"k{i}", bytes([i]) * 4096))
        store.flush(60)
        assert [bytes(o.data)[:1] if o else None for o in store.get_many(keys(*(f"k{i}" for i in range(64))))] == [
            bytes([i]) for i in range(64)
        ]
        store.remove(OpaqueKey("k1"))
        store.flush(60)
    with CreateStorageBackend(device) as again:
        assert not again.contains(OpaqueKey("k1"))
        found = again.get(OpaqueKey("k2"))
        assert found is not None
        assert found.data == bytes([2]) * 4096


def test_a_store_opens_while_its_shared_server_is_down_and_uses_it_when_it_is_back(backend: LMSLocalBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    with pytest.raises(StorageUnavailableError):
        CreateStorageBackend(f"lm:127.0.0.1:{port}")
    with CreateStorageBackend(f"cpu?capacity=64KiB > lm:127.0.0.1:{port}?deadline=60s") as store:
        store.put(*item("k", b"early"))
        assert store.get(OpaqueKey("absent")) is None
        with start(backend, port):
            store.flush(60)
            assert backend.contains(OpaqueKey("k"))
            backend.put(*item("absent", b"not now"))
            found = store.get(OpaqueKey("absent"))
            assert found is not None
            assert found.data == b"not now"


class _lmcache_like:
    """A server that answers EXIST and HEALTH, and says nothing to the rest."""

    def __enter__(self) -> int:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.held: list[socket.socket] = []
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()
        return int(self.listener.getsockname()[1])

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        keys: set[bytes] = set()
        with sock, sock.makefile("rb") as stream:
            while header := stream.read(186):
                command, length = struct.unpack_from("<2i", header)
                if command == 1:
                    stream.read(length)
                    keys.add(header[36:])
                elif command in (3, 5):
                    found = command == 5 or header[36:] in keys
                    sock.sendall(struct.pack("<9i", 200 if found else 400, 0, 1, 2, 0, 0, 0, 0, 0))

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


class _middleman:
    """Passes bytes on, and flips one bit in each large piece while told to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.damage = threading.Event()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> tuple[int, threading.Event]:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return int(self.listener.getsockname()[1]), self.damage

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            out = socket.create_connection(("127.0.0.1", self.server.port))
            self.sockets += [sock, out]
            self._start(self._pass, sock, out)
            self._start(self._pass, out, sock)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := bytearray(source.recv(65536)):
                if self.damage.is_set() and len(data) > 500:
                    data[-10] ^= 1
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self.threads):
            thread.join()
        for sock in self.sockets:
            sock.close()
        self.server.close()
