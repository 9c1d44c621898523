"""Check the coordinator's port before JAX uses it: JAX crashes or waits for minutes if the port is taken."""

import contextlib
import enum
import errno
import os
import socket
import sys
import time
from typing import NamedTuple

from gdjax.cli.errors import InputError, print_message

GRPC_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""First bytes from a gRPC client: the preface of HTTP/2, and an empty settings frame."""
SETTINGS_FRAME = 4
"""Type of the frame with which a gRPC server answers."""
OCCUPIED_TIMEOUT = 5.0
"""Seconds for which another program must hold the port before the run is refused."""
MESSAGE_DELAY = 10.0
"""Seconds of waiting after which a process prints that it waits."""
TIMEOUT = 300.0
"""Seconds for which a process waits for process 0, as in JAX."""
ADDRESS, PORT = "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"
"""Variables that JAX reads under a launcher; the port has no effect if the address is set."""


class PortState(enum.Enum):
    """Response of a port to a gRPC client."""

    COORDINATOR = enum.auto()
    """A gRPC server answers."""
    OTHER_PROGRAM = enum.auto()
    """Something else answers, or accepts the connection and stays silent."""
    CLOSED = enum.auto()
    """The connection is refused."""
    UNREACHABLE = enum.auto()
    """The host is not known yet, or has no route."""


class Coordinator(NamedTuple):
    """Address of process 0."""

    address: str
    """`HOST:PORT`."""
    variable: str | None = None
    """Environment variable that sets another port; `None` if a flag gives the address."""

    def __str__(self) -> str:
        if self.variable is None:
            return f"--coordinator {self.address}"
        from_variable = self.variable == ADDRESS
        return f"{ADDRESS}={self.address}" if from_variable else f"the coordinator {self.address} of the launcher"

    @property
    def fix(self) -> str:
        """Return the fix for an error if the port is taken."""
        fixes = {None: "give another port", ADDRESS: f"give another port in {ADDRESS}"}
        return f"{fixes.get(self.variable, f'set {self.variable} to another port')}, in all processes"


def require_port(coordinator: Coordinator, *, is_first: bool) -> None:
    """Refuse a coordinator whose port another program uses.

    Process 0 will serve on the port, and checks that it is free. The others wait until a gRPC server answers there.

    Args:
      coordinator: the address of process 0.
      is_first: True in process 0.

    Raises:
      InputError: if the port is taken, or process 0 does not answer within `TIMEOUT`.
    """
    host, _, port = coordinator.address.rpartition(":")
    if not is_first:
        _wait_for_server(coordinator, host.strip("[]"), int(port))
    elif reason := _bind_error("", int(port)):
        raise InputError(f"{coordinator}: {reason}; {coordinator.fix}.")


def _wait_for_server(coordinator: Coordinator, host: str, port: int) -> None:
    start, occupied_since, has_printed = time.monotonic(), None, False
    while (now := time.monotonic()) - start < TIMEOUT:
        state = _probe(host, port)
        if state is PortState.COORDINATOR:
            return
        is_bound = state is PortState.CLOSED and _bind_error(host, port) == "the port is in use"
        is_occupied = state is PortState.OTHER_PROGRAM or is_bound
        occupied_since = (occupied_since or now) if is_occupied else None
        if occupied_since is not None and now - occupied_since >= OCCUPIED_TIMEOUT:
            raise InputError(
                f"{coordinator}: the port is in use by something that is not process 0 of this run; {coordinator.fix}."
            )
        if not has_printed and now - start >= MESSAGE_DELAY:
            has_printed = True
            print_message(f"waiting for process 0 at {coordinator.address}.")
        time.sleep(0.1)
    raise InputError(f"{coordinator}: process 0 did not answer within {TIMEOUT:.0f} s; start all processes.")


def _probe(host: str, port: int) -> PortState:
    """Connect to a port as a gRPC client and classify the response."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as connection:
            connection.settimeout(2.0)
            connection.sendall(GRPC_PREFACE)
            answer = b""
            while len(answer) < 9 and (received := connection.recv(9 - len(answer))):
                answer += received
    except ConnectionRefusedError:
        return PortState.CLOSED
    except TimeoutError:
        return PortState.OTHER_PROGRAM
    except OSError:
        return PortState.UNREACHABLE
    is_grpc = len(answer) == 9 and answer[3] == SETTINGS_FRAME
    return PortState.COORDINATOR if is_grpc else PortState.OTHER_PROGRAM


def _bind_error(host: str, port: int) -> str | None:
    """Bind a port and release it; return the reason if it cannot be bound."""
    family = socket.AF_INET6 if socket.has_ipv6 and (not host or ":" in host) else socket.AF_INET
    try:
        server = socket.socket(family)
    except OSError:
        server = socket.socket(socket.AF_INET)
    with contextlib.closing(server):
        if os.name == "posix" and sys.platform != "cygwin":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a run that just ended is free
        if server.family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 too, as in gRPC
        try:
            server.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "the port is in use"
            if error.errno == errno.EACCES:
                return "the port is not allowed to this user"
            return None if host else f"the port cannot be used ({os.strerror(error.errno or 0).lower()})"
    return None
