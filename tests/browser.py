"""Headless Chromium for the tests of pages."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def headless(width: int, height: int, **capabilities: Any) -> Iterator[Any]:
    """A browser of this size, which fetches no driver and tells nobody; without one, a skip."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    for name, value in capabilities.items():
        options.set_capability(f"goog:{name}", value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SE_OFFLINE", "true")
        patched.setenv("SE_AVOID_STATS", "true")
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_window_size(width, height)
    yield chrome
    chrome.quit()
