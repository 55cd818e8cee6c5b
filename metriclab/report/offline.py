"""No way to the network, whatever a run folder from elsewhere names."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within, this process opens no connection; who tries is told that there is none, and may use what is cached."""
    lookup = socket.getaddrinfo

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_FAIL, "a report opens no connection")

    socket.getaddrinfo = refuse
    socket.socket.connect = refuse  # type: ignore[method-assign]  # hides that of the class below, and goes again
    try:
        yield
    finally:
        socket.getaddrinfo = lookup
        del socket.socket.connect
