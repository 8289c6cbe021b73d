"""A server takes clients of two minor versions back, within the bounds of a task."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import VersionError
from fedcore.wire.versions import Version, check_version, installed_version

VERSIONS = st.builds(Version, st.integers(0, 3), st.integers(0, 12), st.integers(0, 12))


@given(VERSIONS, VERSIONS)
def test_a_client_is_taken_from_two_minors_back_on(client: Version, server: Version) -> None:
    oldest = Version(server.major, max(0, server.minor - 2), 0)
    taken = oldest <= client and client.major == server.major
    if taken:
        assert check_version(str(client), server=str(server)) == client
    else:
        with pytest.raises(VersionError):
            check_version(str(client), server=str(server))


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_bounds_of_a_task_are_included(client: Version, least: Version, most: Version) -> None:
    server = str(client)
    if least <= client <= most:
        check_version(str(client), server=server, minimum=str(least), maximum=str(most))
    else:
        with pytest.raises(VersionError):
            check_version(str(client), server=server, minimum=str(least), maximum=str(most))


@given(st.text(max_size=20))
def test_a_text_is_a_version_or_refused(text: str) -> None:
    try:
        found = Version.parse(text)
    except VersionError:
        return
    assert text.startswith(f"{found.major}") or text[0] == "0"


def test_this_installation_has_a_version_that_it_takes_itself() -> None:
    check_version(installed_version(), server=installed_version())
