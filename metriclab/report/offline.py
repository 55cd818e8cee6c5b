"""No way to the network, whatever a run folder from elsewhere names."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within, this process opens no connection; who tries is told that there is none, and may use what is cached."""
    from huggingface_hub import constants  # timm brings it

    lookup = socket.getaddrinfo

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_FAIL, "a report opens no connection")

    hub_was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True  # it would try for most of a minute
    socket.getaddrinfo = refuse
    socket.socket.connect = refuse  # type: ignore[method-assign]  # hides that of the class below, and goes again
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = hub_was_offline
        socket.getaddrinfo = lookup
        del socket.socket.connect
