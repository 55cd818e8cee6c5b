"""JSON and bytes of a run folder, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metriclab.core.files import replacing
from metriclab.errors import StorageError


def write_atomic(path: Path, content: bytes) -> None:
    """Puts the content at the path, whole or not at all. Raises as `replacing` does."""
    with replacing(path, help="free some space, or choose another --out") as file:
        file.write(content)


def to_json(value: Any) -> str:
    """Readable JSON, always the same text for the same value. NaN and infinity become null: JSON has neither."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace").decode()  # names of files that are no UTF-8, as JSON escapes them


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """`to_json`, atomically."""
    write_atomic(path, to_json(value).encode())


def read_json(path: Path) -> Any:
    """The value stored at the path.

    Raises:
        StorageError: where there is no such file, or it holds no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"{path} is not there", help="is this a finished metriclab run folder?") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a plain value's canonical JSON."""
    return digest(json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
