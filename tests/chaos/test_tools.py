"""The tools of the fault matrix: a proxy that breaks connections, an S3 server that misbehaves, the table."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.chaos.table import table
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.faulty_s3 import FaultyS3, errors, faulty_s3, refused_conditions, truncated_uploads
from tests.support.tcp_proxy import TcpProxy

BUCKET = "nightmill"


@pytest.fixture
def answering() -> Iterator[int]:
    """Port of a server that answers each message with the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # the test is over
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with closing(connection):
                try:
                    while data := connection.recv(1024):
                        connection.sendall(data)
                except ConnectionError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def _ask(connection: socket.socket, said: bytes) -> bytes:
    connection.sendall(said)
    return connection.recv(1024)


def _is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_proxy_passes_on_and_can_be_cut_and_restored(answering: int) -> None:
    with TcpProxy(answering) as proxy:
        with _connect(proxy) as connection:
            assert _ask(connection, b"one") == b"one"
            proxy.cut()
            assert _is_gone(connection)
        with _connect(proxy) as connection:
            assert _is_gone(connection)
        proxy.restore()
        with _connect(proxy) as connection:
            assert _ask(connection, b"two") == b"two"


def test_a_stalled_proxy_keeps_what_is_said_until_it_is_restored(answering: int) -> None:
    with TcpProxy(answering) as proxy, _connect(proxy) as connection:
        assert _ask(connection, b"one") == b"one"
        proxy.stall()
        connection.sendall(b"two")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1024)
        connection.settimeout(PATIENCE_SECONDS)
        proxy.restore()
        assert connection.recv(1024) == b"two"


def test_a_proxy_loses_the_answer_to_a_request_that_was_carried_out(answering: int) -> None:
    with TcpProxy(answering) as proxy:
        proxy.lose_answers(b"COMMIT", 1)
        with _connect(proxy) as connection:
            assert _ask(connection, b"SELECT") == b"SELECT"
            connection.sendall(b"COMMIT")
            assert _is_gone(connection)
        assert proxy.answers_to_lose == 0
        with _connect(proxy) as connection:
            assert _ask(connection, b"COMMIT") == b"COMMIT"


@pytest.fixture
def faulty(s3_url: str) -> Iterator[tuple[FaultyS3, Any]]:
    """A server that can be told to misbehave, and a client of it that tries once."""
    with faulty_s3() as (server, port):
        once = Config(retries={"mode": "standard", "total_max_attempts": 1})
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=once)
        yield server, client
        client.close()


def test_a_faulty_store_answers_with_errors_until_it_is_mended(faulty: tuple[FaultyS3, Any]) -> None:
    server, client = faulty
    server.strike(errors("503 Slow Down", "SlowDown", random.Random(1), 1.0))
    with pytest.raises(ClientError, match="SlowDown"):
        client.put_object(Bucket=BUCKET, Key="faulty/a", Body=b"a")
    server.mend()
    client.put_object(Bucket=BUCKET, Key="faulty/a", Body=b"a")
    assert client.get_object(Bucket=BUCKET, Key="faulty/a")["Body"].read() == b"a"
    assert server.struck == 1


def test_half_an_upload_leaves_nothing(faulty: tuple[FaultyS3, Any]) -> None:
    server, client = faulty
    server.strike(truncated_uploads(random.Random(1), 1.0))
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=BUCKET, Key="faulty/half", Body=b"half" * 1000)
    server.mend()
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="faulty/half")


def test_a_listing_lags_and_conditions_are_refused(faulty: tuple[FaultyS3, Any]) -> None:
    server, client = faulty
    client.put_object(Bucket=BUCKET, Key="lagging/a", Body=b"a")
    server.lag(60.0)
    assert client.list_objects_v2(Bucket=BUCKET, Prefix="lagging/").get("Contents", []) == []
    server.mend()
    [entry] = client.list_objects_v2(Bucket=BUCKET, Prefix="lagging/")["Contents"]
    assert entry["Key"] == "lagging/a"
    server.strike(refused_conditions)
    with pytest.raises(ClientError, match="NotImplemented"):
        client.put_object(Bucket=BUCKET, Key="lagging/a", Body=b"b", IfNoneMatch="*")
    client.put_object(Bucket=BUCKET, Key="lagging/a", Body=b"c")


def test_the_table_merges_the_seeds_of_a_fault() -> None:
    figures = {"recover_seconds": 1.0, "again_seconds": None, "items_again": 10, "idle_seconds": 0.5}
    results = [
        {"fault": "kill", "seed": 0, "problems": [], "figures": figures},
        {"fault": "kill", "seed": 1, "problems": ["lost"], "figures": {**figures, "again_seconds": 4.0}},
        {"fault": "kill", "seed": 2, "problems": ["no end"], "figures": {}},
        {"fault": "other", "seed": 0, "problems": [], "figures": {**figures, "items_again": 0}},
    ]
    head, _, kill, other = table(results, ["kill", "unknown", "other"]).splitlines()
    assert head.startswith("| fault |")
    assert kill == "| kill | 3 | 1 | 1 / 1 | 4.0 | 10 / 10 | 0.5 / 0.5 |"
    assert other == "| other | 1 | 1 | 1 / 1 |  | 0 / 0 | 0.5 / 0.5 |"
