"""What secure aggregation costs in Flower 1.42, by its own functions, in the order it calls them.

Run by a Python that has flwr; prints `RESULT {json}`. `client`: the shares, keys, ciphers and masks
of one client, as its `secaggplus_mod` makes them. Quantisation is timed apart, and new key pairs
are not timed, for fedcore posts its own ahead. `server`: one secret of each kind is rebuilt, from
the fewest shares that do, and some streams are taken off; `opening_s` is the time of each,
multiplied by how many there are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import (
    combine_shares,
    create_shares,
)
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import (
    quantize,
)
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

_MODULUS, _CLIP, _LEVELS = 2**32, 8.0, 2**22  # the defaults of its workflow
_SAMPLED = 5  # keys and streams timed on the server's side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("client", "server"))
    for name in ("neighbours", "threshold", "coordinates", "survivors", "lost", "pairs"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    result = client(options) if options.side == "client" else server(options)
    print("RESULT", json.dumps(result))


def client(options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of one client between the public keys and the masked vector."""
    own, channel = _pair(), _pair()
    neighbours = {j: (_pair(), _pair()) for j in range(1, options.neighbours + 1)}
    shares = options.neighbours + 1  # it keeps one of its own
    inbox = {}
    for j, (_, theirs) in neighbours.items():
        key = _agreed(theirs[0], channel[1])
        inbox[j] = encrypt(key, share_keys_plaintext_concat(j, 0, bytes(36), bytes(324)))

    seed, keys = os.urandom(32), {}

    def deal() -> None:
        of_seed = create_shares(seed, options.threshold, shares)
        of_key = create_shares(own[0], options.threshold, shares)
        for j, (_, theirs) in neighbours.items():
            keys[j] = _agreed(channel[0], theirs[1])
            plain = share_keys_plaintext_concat(0, j, of_seed[j], of_key[j])
            encrypt(keys[j], plain)

    dealing_s = _cpu_s(deal)
    vector = [np.random.default_rng(0).normal(size=options.coordinates)]
    quantising_s = _cpu_s(lambda: quantize(vector, _CLIP, _LEVELS))
    quantised = factor_combine(1, quantize(vector, _CLIP, _LEVELS))

    def mask() -> None:
        for j, sealed in inbox.items():
            share_keys_plaintext_separate(decrypt(keys[j], sealed))
        shapes = [array.shape for array in quantised]
        masked = parameters_addition(quantised, pseudo_rand_gen(seed, _MODULUS, shapes))
        for j, (theirs, _) in neighbours.items():
            pairwise = pseudo_rand_gen(_agreed(own[0], theirs[1]), _MODULUS, shapes)
            combine = parameters_addition if j % 2 else parameters_subtraction
            masked = combine(masked, pairwise)
        for array in parameters_mod(masked, _MODULUS):
            ndarray_to_bytes(array)

    masking_s = _cpu_s(mask)
    total = dealing_s + masking_s
    return {
        "sessions_per_s": 1 / total,
        "dealing_s": dealing_s,
        "masking_s": masking_s,
        "quantising_s": quantising_s,
    }


def server(options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of rebuilding one secret of each kind, of a key, of a stream; and the product."""
    own, theirs = _pair(), _pair()
    few = slice(options.threshold)
    of_seed = create_shares(os.urandom(32), options.threshold, options.neighbours + 1)[few]
    of_key = create_shares(own[0], options.threshold, options.neighbours + 1)[few]
    seed_s = _cpu_s(lambda: combine_shares(of_seed))
    key_s = _cpu_s(lambda: combine_shares(of_key))
    agreeing_s = _cpu_s(lambda: [_agreed(own[0], theirs[1]) for _ in range(_SAMPLED)]) / _SAMPLED
    shapes = [(1,), (options.coordinates,)]
    state = [pseudo_rand_gen(os.urandom(32), _MODULUS, shapes)]

    def unmask() -> None:
        for _ in range(_SAMPLED):
            mask = pseudo_rand_gen(os.urandom(32), _MODULUS, shapes)
            state[0] = parameters_subtraction(state[0], mask)

    stream_s = _cpu_s(unmask) / _SAMPLED
    opening_s = options.survivors * (seed_s + stream_s) + options.lost * key_s
    opening_s += options.pairs * (agreeing_s + stream_s)
    return {
        "openings_per_s": 1 / opening_s,
        "opening_s": opening_s,
        "seed_s": seed_s,
        "key_s": key_s,
        "agreeing_s": agreeing_s,
        "stream_s": stream_s,
    }


def _pair() -> tuple[bytes, bytes]:
    private, public = generate_key_pairs()
    return private_key_to_bytes(private), public_key_to_bytes(public)


def _agreed(private: bytes, public: bytes) -> bytes:
    key: bytes = generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))
    return key


def _cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest of two runs, with all threads that the work starts."""
    times = []
    for _ in range(2):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


if __name__ == "__main__":
    main()
