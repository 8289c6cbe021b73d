"""No secret gets into a log, by whatever name, depth or library."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
from collections.abc import Iterator

import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from fedcore.wire.joining import JoinString
from fedserver import logs

TOKEN = secrets.token_bytes(32)
JOIN = JoinString("fl.example.org:7443", bytes(32), TOKEN).encode()
BARE = base64.urlsafe_b64encode(TOKEN).rstrip(b"=").decode()
PEM = (
    Ed25519PrivateKey.generate()
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged, with the process's logging put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    out = io.StringIO()
    logs.configure(level="debug", stream=out)
    yield out
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("secret", [JOIN, BARE, PEM], ids=["join string", "token", "private key"])
@pytest.mark.parametrize("where", ["event", "field", "nested", "list", "error", "library"])
def test_a_secret_is_hidden_wherever_it_stands(
    stream: io.StringIO, secret: str, where: str
) -> None:
    log = structlog.get_logger("test")
    if where == "event":
        log.info(f"joined with {secret}")
    elif where == "field":
        log.info("joined", text=f"<{secret}>")
    elif where == "nested":
        log.info("joined", data={"a": {"b": [secret]}})
    elif where == "list":
        log.info("joined", words=("with", secret))
    elif where == "error":
        try:
            raise ValueError(f"cannot parse {secret}")
        except ValueError:
            log.exception("failed")
    else:
        logging.getLogger("some.library").warning("read %s", secret)
    line = stream.getvalue()
    assert line and logs.HIDDEN in line
    body = "".join(PEM.splitlines()[1:-1]) if secret == PEM else BARE
    assert body not in line.replace("\\n", "")


@given(
    st.sampled_from(["token", "Passphrase", "client_secret", "PRIVATE_key", "join_string"]),
    st.text(min_size=1),
)
def test_a_field_that_is_named_like_a_secret_is_hidden(name: str, value: str) -> None:
    assert logs.redact(None, "", {name: value}) == {name: logs.HIDDEN}
    assert logs.redact(None, "", {"a": {name: value}}) == {"a": {name: logs.HIDDEN}}


NAMES = st.text("abcdef_", max_size=8)  # no name looks like bytes that are shown


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=20,
    )
)
def test_bytes_are_counted_and_never_shown(value: object) -> None:
    shown = json.dumps(logs.redact(None, "", {"value": value}))
    assert "\\x" not in shown and "b'" not in shown


def test_digests_in_hexadecimal_are_shown() -> None:
    digest = bytes(32).hex()
    assert logs.redact(None, "", {"digest": digest}) == {"digest": digest}


def test_lines_are_json_with_the_context_of_the_call(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1", task="digits"):
        structlog.get_logger("fedserver").info("refused", code="FED-2101")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["code"]) == ("refused", "info", "FED-2101")
    assert (line["request_id"], line["task"]) == ("r1", "digits")
    assert line["timestamp"].endswith("Z")


def test_text_is_for_people(stream: io.StringIO) -> None:
    logs.configure(form="text", stream=stream)
    structlog.get_logger("fedserver").info("serving", address="localhost:1")
    assert "serving" in stream.getvalue() and not stream.getvalue().startswith("{")
