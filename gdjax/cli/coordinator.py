"""Try the port of the coordinator before JAX does: where it is taken, JAX crashes or waits for minutes."""

import contextlib
import errno
import os
import socket
import sys
import time
from typing import NamedTuple

from gdjax.cli.errors import InputError, say

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""First bytes from a client of gRPC: the preface of HTTP/2, and a frame of settings."""
SETTINGS = 4
"""The kind of frame with which a server of gRPC answers."""
PATIENCE = 5.0
"""Seconds for which another program must hold a port before the run is refused."""
QUIET = 10.0
"""Seconds after which a process says that it waits."""
ADDRESS, PORT = "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"
"""Variables of JAX for what runs under a launcher; the second has no effect where the first is set."""
WAIT = 300.0
"""Seconds for which a process waits for process 0, as JAX does."""


class Coordinator(NamedTuple):
    """Where process 0 is found, and how a user moves it elsewhere."""

    address: str
    """`HOST:PORT`."""
    variable: str | None = None
    """The environment variable that moves it; `None` where a flag gives the address."""

    def __str__(self) -> str:
        if self.variable is None:
            return f"--coordinator {self.address}"
        is_own = self.variable == ADDRESS
        return f"{ADDRESS}={self.address}" if is_own else f"the coordinator {self.address} of the launcher"

    @property
    def way(self) -> str:
        """Return what to do where its port is taken."""
        ways = {None: "give another port", ADDRESS: f"give another port in {ADDRESS}"}
        return f"{ways.get(self.variable, f'set {self.variable} to another port')}, in all processes"


def require_port(coordinator: Coordinator, *, first: bool) -> None:
    """Refuse a coordinator whose port serves something else.

    Process 0 serves there, so it finds out whether the port is free. The others wait until it answers as JAX does.

    Args:
      coordinator: where process 0 is found.
      first: whether this is process 0.

    Raises:
      InputError: if the port is taken, or nobody answers in time.
    """
    host, _, number = coordinator.address.rpartition(":")
    host, port = host.strip("[]"), int(number)
    if first:
        if fault := _bound("", port):
            raise InputError(f"{coordinator}: {fault}; {coordinator.way}.")
    else:
        _await(coordinator, host, port)


def _await(coordinator: Coordinator, host: str, port: int) -> None:
    """Wait until a server of gRPC answers at an address."""
    began, taken_since, told = time.monotonic(), None, False
    while (now := time.monotonic()) - began < WAIT:
        state = _asked(host, port)
        if state == "answers":
            return
        taken = state == "is something else" or (state == "is silent" and _is_held(host, port))
        taken_since = (taken_since or now) if taken else None
        if taken_since is not None and now - taken_since >= PATIENCE:
            raise InputError(
                f"{coordinator}: the port is in use by something that is not process 0 of this run; {coordinator.way}."
            )
        if not told and now - began >= QUIET:
            told = True
            say(f"waiting for process 0 at {coordinator.address}.")
        time.sleep(0.1)
    raise InputError(f"{coordinator}: process 0 did not answer within {WAIT:.0f} s; start all processes.")


def _asked(host: str, port: int) -> str:
    """Return the response of a port in words: "answers" is that of a server of gRPC."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as one:
            one.settimeout(2.0)
            one.sendall(PREFACE)
            answer = b""
            while len(answer) < 9 and (part := one.recv(9 - len(answer))):
                answer += part
    except ConnectionRefusedError:
        return "is silent"
    except TimeoutError:
        return "is something else"
    except OSError:  # no such host yet, no way to it, ...
        return "cannot be reached"
    return "answers" if len(answer) == 9 and answer[3] == SETTINGS else "is something else"


def _is_held(host: str, port: int) -> bool:
    """Return whether a socket on this machine holds the port without serving there."""
    return _bound(host, port) == "the port is in use"


def _bound(host: str, port: int) -> str | None:
    """Bind a port and let go of it; return why that is impossible, in words."""
    family = socket.AF_INET6 if socket.has_ipv6 and (not host or ":" in host) else socket.AF_INET
    try:
        one = socket.socket(family)
    except OSError:
        one = socket.socket(socket.AF_INET)
    with contextlib.closing(one):
        if os.name == "posix" and sys.platform != "cygwin":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last run has just ended is free
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as gRPC does, for both kinds of address
        try:
            one.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "the port is in use"
            if error.errno == errno.EACCES:
                return "the port is not allowed to this user"
            return None if host else f"the port cannot be used ({os.strerror(error.errno or 0).lower()})"
    return None
