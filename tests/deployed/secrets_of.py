"""Every secret of a deployment, in all forms in which a careless line could show it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fedcore.wire.joining import JoinString
from tests.chaos.deployment import Deployment

__all__ = ["forms_of", "found_in", "secrets_of"]

_PRIVATE: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL
)
_LONGEST_BLOCK: Final = 3  # bytes of which base64 makes four signs
_SHORTEST: Final = 16


def secrets_of(deployment: Deployment, join_string: str) -> dict[str, bytes]:
    """The secrets by what they are: keys of the server, of its users and devices, and a token."""
    found = {
        "join string": join_string.encode(),
        "token": JoinString.parse(join_string).token,
    }
    folders = [deployment.authority, deployment.admin.folder]
    folders += sorted((deployment.folder / "devices").glob("*/identity"))
    for folder in folders:
        for path in sorted(folder.iterdir()):
            for number, secret in enumerate(_of_file(path)):
                found[f"{path.relative_to(deployment.folder)} {number}"] = secret
    return found


def forms_of(secret: bytes) -> set[bytes]:
    """A secret as bytes, in hexadecimal, in base32, and wherever it may begin within base64.

    >>> b"AAECAwQFBgcICQoLDA0O" in forms_of(bytes(range(16)))
    True
    """
    forms = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    base32 = base64.b32encode(secret).rstrip(b"=")
    forms |= {base32, base32.lower()}
    for before in range(_LONGEST_BLOCK):
        # Signs that a neighbouring byte has a part in are left away at both ends.
        rest = secret[(_LONGEST_BLOCK - before) % _LONGEST_BLOCK :]
        whole = rest[: len(rest) - len(rest) % _LONGEST_BLOCK]
        forms |= {base64.b64encode(whole), base64.urlsafe_b64encode(whole)}
    return forms


def found_in(text: bytes, secrets: dict[str, bytes]) -> list[str]:
    """Which of the secrets stand in a text, in whatever form."""
    return [
        name for name, secret in secrets.items() if any(form in text for form in forms_of(secret))
    ]


def _of_file(path: Path) -> Iterator[bytes]:
    """Keys in a file: of PEM both the file's words and the number itself."""
    data = path.read_bytes()
    for pem in _PRIVATE.findall(data):
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        yield key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
        yield from (line for line in pem.splitlines()[1:-1] if len(line) >= _SHORTEST)
    if path.suffix in (".key", ".keys"):
        if len(data) == 32:
            yield data
        else:
            yield from (bytes.fromhex(line) for line in data.decode().split())
