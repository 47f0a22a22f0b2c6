"""Downloads CounterFact from its public home, checks the bytes, and caches the file."""

import hashlib
import http.client
import logging
from pathlib import Path

import torch.hub

from kedit.cache import cache_dir
from kedit.errors import InputError

URL = "https://rome.baulab.info/data/dsets/counterfact.json"
SHA256 = "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"  # 45,108,470 bytes

log = logging.getLogger("kedit")


def counterfact(url: str = URL, sha256: str = SHA256) -> Path:
    """Returns the path of CounterFact in kedit's cache, after a download if it is not there whole.

    Raises:
        InputError: the download fails, or its bytes are not those of the published file.
    """
    file = cache_dir() / "counterfact.json"
    if file.exists() and _digest(file) == sha256:
        return file
    log.info("Downloading CounterFact (45 MB) from %s into %s", url, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256)
    # RuntimeError: wrong checksum; HTTPException: the connection broke
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise InputError(
            f"CounterFact cannot be downloaded: {error}. Get {url} (or a part of it) in another "
            "way and name the file with --source"
        ) from None
    return file


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as raw:
        while chunk := raw.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
