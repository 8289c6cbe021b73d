"""The seeds of every target, and some hundred mutations of them that are the same each time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator

import pytest
import structlog

from fedcore.errors import FedcoreError, ServerError, TaskError
from tests.fuzz.calls import RPCS, Calls, Rpc
from tests.fuzz.formats import FORMATS
from tests.fuzz.judge import MOST_SECONDS, Finding, Target, judge, measuring
from tests.fuzz.requests import requests
from tests.fuzz.seeds import CORPUS, mutations, seeds_of

MUTATIONS, CALLS = 150, 12


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    made = Calls()
    with measuring():
        yield made
    made.end()
    structlog.reset_defaults()


@pytest.mark.parametrize("target", FORMATS, ids=lambda target: target.name)
def test_a_format_is_taken_or_refused_with_a_code(target: Target) -> None:
    seeds = seeds_of(target.name)
    with measuring():
        for data in (*seeds, *mutations(seeds, MUTATIONS, draw=random.Random(1))):
            judge(target, data)


@pytest.mark.parametrize("target", FORMATS, ids=lambda target: target.name)
def test_a_seed_of_every_format_is_taken_whole(target: Target) -> None:
    taken = 0
    for data in seeds_of(target.name):
        try:
            target.take(data)
        except FedcoreError as error:
            if "nothing is built here" not in str(error):
                continue
        taken += 1
    assert taken


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_an_rpc_answers_or_refuses_with_a_code(rpc: Rpc, calls: Calls) -> None:
    seeds = requests(rpc)
    draw = random.Random(rpc.name)
    for data in (*seeds, *mutations(seeds, CALLS, draw=draw)):
        judge(calls.target(), seeds[0][:1] + data[1:])


def test_every_folder_of_the_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {target.name for target in FORMATS}


def busy(data: bytes) -> None:
    end = time.process_time() + 1.2 * MOST_SECONDS
    while time.process_time() < end:
        pass


def greedy(data: bytes) -> None:
    bytes(2 << 20)


def uncoded(data: bytes) -> None:
    raise KeyError(data)


def coded(data: bytes) -> None:
    raise TaskError("no")


def miscoded(data: bytes) -> None:
    error = ServerError("no")
    error.code = "oops"
    raise error


@pytest.mark.parametrize("take", [busy, greedy, uncoded, miscoded])
def test_what_bytes_must_not_do_is_found(take: object) -> None:
    with measuring(), pytest.raises((Finding, KeyError)):
        judge(Target("bad", take), b"x")  # type: ignore[arg-type]
    with measuring():
        judge(Target("good", coded), b"x")
