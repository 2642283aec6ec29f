"""Addresses on this machine: which ports are free, who holds one, and what answers where."""

from __future__ import annotations

import http.client
import secrets
import socket
from pathlib import Path
from urllib.parse import urlsplit

import psutil

LOOPBACK = "127.0.0.1"
PROBE_SECONDS = 1.0
LOWEST_PORT = 20_000
USUAL_FIRST_EPHEMERAL_PORT = 32_768


class PortError(Exception):
    """A port cannot be had; the message says why, and who has it."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that nothing listens on just now.

    Not one of those that the kernel hands out by itself: Ray's processes take dozens of them while the stack starts,
    and every outgoing connection takes one.
    """
    for _ in range(100):
        port = LOWEST_PORT + secrets.randbelow(_first_ephemeral_port() - LOWEST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise PortError(f"no free port was found on {host}")


def _first_ephemeral_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return USUAL_FIRST_EPHEMERAL_PORT
    return max(LOWEST_PORT + 1000, int(text.split()[0]))


def check_port(host: str, port: int) -> None:
    """Raise PortError where the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortError(
                f"the API cannot listen on {host}:{port}: {error.strerror}{_listener(port)}; "
                "give another one with --port, or --port 0 for any that is free"
            ) from error


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if not connection.laddr or connection.status != psutil.CONN_LISTEN or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f" (by process {connection.pid}, {psutil.Process(connection.pid).name()})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""  # only who it is stays unsaid
    return ""


def accepts(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), PROBE_SECONDS):
            return True
    except OSError:
        return False


def accepts_at(path: Path) -> bool:
    """Whether something listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def answers(url: str, path: str) -> bool:
    """Whether an HTTP server answers 200 there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
