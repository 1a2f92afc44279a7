"""Headless Chromium for tests; skipped aloud where there is none, unless ``make test-browser`` says there must be."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "hide-scrollbars", "disable-dev-shm-usage",
)  # fmt: skip


def open_browser(profile: Path, *more: str) -> Any:
    """A browser with an empty profile."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        if os.environ.get("TOKALIGN_TEST_BROWSER") == "required":
            pytest.fail("chromium and chromedriver are not on this machine")
        pytest.skip("no chromium and chromedriver on this machine: pages are not looked at")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*_OPTIONS, *more, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A browser, closed in the end."""
    opened = open_browser(tmp_path / "profile")
    try:
        yield opened
    finally:
        opened.quit()


def complaints(browser: Any) -> list[str]:
    """What the console says."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """Addresses that were asked for since the last look."""
    import json

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
