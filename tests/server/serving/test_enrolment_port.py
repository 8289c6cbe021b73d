"""The port for those who are not known yet: a ward full of devices is let in, a guesser is not."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.v1 import enrolment_service_pb2 as messages
from fedcore.wire.channels import ENROLMENT_RECEIVES_BYTES
from fedcore.wire.envelope import proof_statement, reissue_statement
from fedcore.wire.failures import error_from
from fedcore.wire.versions import installed_version
from fedserver.store.records import TokenRecord

SERVICE = "/fedcore.v1.EnrolmentService/"
TOKEN = b"t" * 32
OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


def signing_request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def enrolment(world: Any, identity: Ed25519PrivateKey, token: bytes = TOKEN) -> Any:
    request = signing_request()
    return messages.EnrolRequest(
        signing_request=request,
        token=token,
        identity_key=identity.public_key().public_bytes_raw(),
        identity_proof=identity.sign(proof_statement(request, world.authority.root)),
        sdk_version=installed_version(),
    )


async def call(world: Any, method: str, request: Any) -> tuple[grpc.StatusCode, bytes, Any]:
    found: tuple[grpc.StatusCode, bytes, Any] = await world.call(
        None, SERVICE + method, request, enrolment=True
    )
    return found


async def with_token(world: Any, *, uses: int) -> None:
    await world.store.create_token(
        TokenRecord(
            hashlib.sha256(TOKEN).digest(), "default", uses, int(time.time() * 1000) + 60_000
        )
    )


async def test_fourteen_devices_behind_one_address_join_at_once(make_world: Any) -> None:
    async with make_world(limits={"calls_per_second": 10, "calls_at_once": 20}) as world:
        await with_token(world, uses=14)

        async def join() -> list[grpc.StatusCode]:
            anchors = await call(world, "Anchors", messages.AnchorsRequest())
            request = enrolment(world, Ed25519PrivateKey.generate())
            return [anchors[0], (await call(world, "Enrol", request))[0]]

        answers = await asyncio.gather(*(join() for _ in range(14)))
        assert answers == [[OK, OK]] * 14
        assert len(await world.store.clients()) == 14


async def test_strangers_fill_little_memory_before_they_are_refused(world: Any) -> None:
    request = enrolment(world, Ed25519PrivateKey.generate())
    request.signing_request = bytes(ENROLMENT_RECEIVES_BYTES)
    assert (await call(world, "Enrol", request))[0] is REFUSED
    told = world.metrics.exposition().decode()
    ends = re.findall(r'rpcs_total\{method="EnrolmentService.Enrol",status="(\w+)"', told)
    assert ends == ["CANCELLED"]  # by gRPC itself: nobody was given a message
    request.signing_request = bytes(ENROLMENT_RECEIVES_BYTES // 2)
    assert (await call(world, "Enrol", request))[0] is grpc.StatusCode.INVALID_ARGUMENT
    # Of each call that has begun so much may have come, and nobody knows of it yet.
    assert world.server._for_strangers.rpcs * ENROLMENT_RECEIVES_BYTES <= 256 << 20


async def test_a_device_gets_new_certificates_for_the_proof_of_its_key(world: Any) -> None:
    await with_token(world, uses=1)
    identity = Ed25519PrivateKey.generate()
    _, data, _ = await call(world, "Enrol", enrolment(world, identity))
    client_id = messages.EnrolResponse.FromString(data).client_id
    request = signing_request()
    statement = reissue_statement(request, world.authority.root, client_id=client_id)
    reissue = messages.ReissueRequest(
        client_id=client_id, signing_request=request, identity_proof=identity.sign(statement)
    )
    code, data, _ = await call(world, "Reissue", reissue)
    chain = messages.ReissueResponse.FromString(data).certificate_chain
    leaf = x509.load_der_x509_certificate(chain[0])
    assert code is OK and leaf.public_key() == x509.load_der_x509_csr(request).public_key()
    actions = [record.entry.action for record in await world.store.audit_entries()]
    assert actions[-2:] == ["client.enrol", "certificate.reissue"]


async def test_an_address_tries_as_often_as_the_settings_say(make_world: Any) -> None:
    async with make_world(limits={"enrolments_per_minute": 3}) as world:
        request = enrolment(world, Ed25519PrivateKey.generate())
        request.signing_request = b"garbage"
        codes = [(await call(world, "Enrol", request))[0] for _ in range(4)]
        assert codes == [grpc.StatusCode.INVALID_ARGUMENT] * 3 + [REFUSED]


async def test_so_many_wrong_tokens_as_the_settings_say_lock_an_address_out(
    make_world: Any,
) -> None:
    async with make_world(limits={"failed_enrolments": 2}) as world:
        await with_token(world, uses=1)
        wrong = enrolment(world, Ed25519PrivateKey.generate(), b"w" * 32)
        codes = [(await call(world, "Enrol", wrong))[0] for _ in range(2)]
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2
        right = enrolment(world, Ed25519PrivateKey.generate())
        code, _, error = await call(world, "Enrol", right)
        assert code is REFUSED
        retry = error_from(error).retry  # type: ignore[attr-defined]
        assert retry is not None and retry[0] > 14 * 60_000
