"""What attacks share: a server to lie with, tasks to lie about, and data for its devices."""

from __future__ import annotations

from tests.client.conftest import flowers, folder, no_failpoints, open_task, secure_task, serve

__all__ = ["flowers", "folder", "no_failpoints", "open_task", "secure_task", "serve"]
