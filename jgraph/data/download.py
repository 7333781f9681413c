"""Fetching a public file, and writing a file so that readers see all of it or nothing."""

from __future__ import annotations

import os
import secrets
import sys
import urllib.request
from pathlib import Path

_CHUNK = 1 << 16


def fetch(url: str, *, timeout: float = 30.0) -> bytes:
    """The bytes at `url`; progress goes to stderr on a terminal, one plain line elsewhere.

    Args:
      url: the address.
      timeout: seconds without any data after which the attempt fails.

    Raises:
      OSError, http.client.HTTPException: no connection, an HTTP error, a timeout, or a body that is
        shorter than announced.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "jgraph"})
    live = sys.stderr.isatty()
    if not live:
        print(f"downloading {url}", file=sys.stderr)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        announced = int(response.headers.get("Content-Length") or 0)
        parts, received = [], 0
        while chunk := response.read(_CHUNK):
            parts.append(chunk)
            received += len(chunk)
            if live:
                of = f" of {announced / 1e6:.1f}" if announced else ""
                print(f"\r{url} {received / 1e6:.1f}{of} MB", end="", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)
    if received < announced:
        raise OSError(f"the connection ended after {received} of {announced} bytes")
    return b"".join(parts)


def store(path: Path, content: bytes) -> None:
    """Writes `content` to `path` (folders are made) through a temporary file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, and a cache may be shared.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
