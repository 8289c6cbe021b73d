"""A browser that opens a page asks nobody for anything and runs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedsim.report.page import render_page
from tests.sim.report.runs import learning, run_of

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--dump-dom",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="Chromium is not installed"),
]


class Listener(ThreadingHTTPServer):
    """Writes down what it is asked for."""

    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of it belongs into the output of tests."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def opened(page: str, folder: Path) -> str:
    """The page as the browser has it when all is loaded."""
    path = folder / "report.html"
    path.write_text(page, "utf-8")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [BROWSER, *OPTIONS, *root, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def hostile(listener: Listener) -> str:
    address = f"http://127.0.0.1:{listener.server_port}"
    return (
        f'</title></td><img src="{address}/image"><link rel=stylesheet href="{address}/style">'
        f"<script>document.title='taken'</script><style>h1{{background:url({address}/url)}}</style>"
    )


def test_a_page_with_hostile_names_loads_and_runs_nothing(
    tmp_path: Path, listener: Listener
) -> None:
    page = render_page(run_of(learning(0.5, 0.7), name=hostile(listener)))
    shown = opened(page, tmp_path)
    assert "<img" not in shown and "<title>taken" not in shown
    assert shown.count("<svg") == 4
    assert listener.asked == []


def test_even_text_that_was_not_escaped_would_load_and_run_nothing(
    tmp_path: Path, listener: Listener
) -> None:
    page = render_page(run_of(learning(0.5))).replace("<h2>Plots</h2>", hostile(listener))
    assert "<title>taken" not in opened(page, tmp_path)
    assert listener.asked == []


def test_the_listener_would_have_heard(tmp_path: Path, listener: Listener) -> None:
    page = render_page(run_of(learning(0.5))).replace("<h2>Plots</h2>", hostile(listener))
    unguarded = page.replace("Content-Security-Policy", "X-Nothing")
    assert "<title>taken" in opened(unguarded, tmp_path)
    assert {"/image", "/style"} <= set(listener.asked)
