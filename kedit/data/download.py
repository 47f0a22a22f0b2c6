"""Downloads CounterFact from its public home, checks the bytes, and caches the file."""

import hashlib
import http.client
import logging
import urllib.request
from pathlib import Path

from kedit.cache import cache_dir
from kedit.errors import InputError
from kedit.progress import progress

URL = "https://rome.baulab.info/data/dsets/counterfact.json"
SHA256 = "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"
LONGEST = 45_108_470  # bytes of the published file
PIECE = 1 << 20  # bytes that are read at once
SILENCE = 60  # seconds without a byte after which the download has failed

log = logging.getLogger("kedit")


def counterfact(url: str = URL, sha256: str = SHA256, longest: int = LONGEST) -> Path:
    """Returns the path of CounterFact in kedit's cache, after a download if it is not there whole.

    Args:
        longest: number of bytes after which the download is given up.

    Raises:
        InputError: the download fails, or its bytes are not those of the published file.
    """
    file = cache_dir() / "counterfact.json"
    if file.exists() and _digest(file) == sha256:
        return file
    log.info("Downloading CounterFact (45 MB) from %s into %s", url, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(url, file, sha256, longest)
    # HTTPException: the connection broke; ValueError: not the published file
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"CounterFact cannot be downloaded: {error}. Get {url} (or a part of it) in another "
            "way and name the file with --source"
        ) from None
    return file


def _download(url: str, file: Path, sha256: str, longest: int) -> None:
    """Writes what a URL holds into a file, completely or not at all.

    Raises:
        ValueError: it has other bytes than `sha256` says, or more than `longest`.
    """
    scratch, n_bytes = file.with_name(f"{file.name}.part"), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=SILENCE) as answer,
            scratch.open("wb") as written,
            progress("MB") as bars,
        ):
            bar = bars.add_task("downloading", total=longest >> 20)
            while piece := answer.read(PIECE):
                n_bytes += len(piece)
                if n_bytes > longest:
                    raise ValueError(f"it has more than the {longest} bytes of that file")
                written.write(piece)
                bars.update(bar, completed=n_bytes >> 20)
        if (found := _digest(scratch)) != sha256:
            raise ValueError(f"its SHA-256 is {found}, not {sha256}")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as raw:
        while chunk := raw.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
