"""What tests of this folder share: a deployment a module; kills by the hour only if asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.scene import Scene
from tests.postgres import DATABASES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `chaos`, unless it is asked for by that name."""
    if "chaos" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("chaos") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.get_closest_marker("chaos") is None]


@pytest.fixture(scope="module", params=DATABASES)
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """A server that serves, on either database, and five members that do not run yet."""
    url = ""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url(server.database())
    made = Scene(tmp_path_factory.mktemp("scene"), database_url=url)
    yield made
    made.close()
