"""Pieces: what comes back is what was put in, or an error."""

import contextlib
import os

import pytest

from agent.archive.errors import ArchiveError
from agent.archive.sealing import Sealer, key_id

KEY, OTHER = bytes(range(32)), bytes(32)
PLAIN = b"the same line again and again\n" * 5000
RANDOM = os.urandom(200_000)


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("plain", [PLAIN, RANDOM, b"a few bytes"])
def test_a_piece_comes_back(plain, encrypt):
    sealer = Sealer(KEY, encrypt=encrypt)
    name = sealer.name(plain)
    sealed = sealer.seal(name, plain)
    assert Sealer(KEY, encrypt=not encrypt).unseal(name, sealed) == plain
    assert (plain[:50] in sealed) == (not encrypt and plain is not PLAIN)


def test_only_what_gets_smaller_is_compressed():
    sealer = Sealer(KEY, encrypt=False)
    assert len(sealer.seal(sealer.name(PLAIN), PLAIN)) < len(PLAIN) / 20
    assert len(sealer.seal(sealer.name(RANDOM), RANDOM)) == len(RANDOM) + 6


def test_the_name_of_an_encrypted_piece_tells_nothing():
    plain, secret, other = (
        Sealer(key, encrypt=encrypt).name(PLAIN)
        for key, encrypt in ((KEY, False), (KEY, True), (OTHER, True))
    )
    assert len({plain, secret, other}) == 3


@pytest.mark.parametrize("encrypt", [False, True])
def test_every_changed_bit_is_found(encrypt):
    sealer = Sealer(KEY, encrypt=encrypt)
    name = sealer.name(PLAIN)
    sealed = sealer.seal(name, PLAIN)
    for position in range(0, len(sealed) * 8, 7):
        wrong = bytearray(sealed)
        wrong[position // 8] ^= 1 << position % 8
        # A bit that has no meaning for what was compressed may change.
        with contextlib.suppress(ArchiveError):
            assert sealer.unseal(name, bytes(wrong)) == PLAIN


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_swapped_piece_is_refused(encrypt):
    sealer = Sealer(KEY, encrypt=encrypt)
    other = sealer.seal(sealer.name(RANDOM), RANDOM)
    with pytest.raises(ArchiveError, match="is not what it was"):
        sealer.unseal(sealer.name(PLAIN), other)


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 20])
def test_a_piece_that_was_cut_is_refused(cut):
    sealer = Sealer(KEY, encrypt=True)
    name = sealer.name(PLAIN)
    with pytest.raises(ArchiveError, match=r"another format|is not what it was"):
        sealer.unseal(name, sealer.seal(name, PLAIN)[:cut])


def test_another_key_does_not_open_it():
    name = Sealer(KEY, encrypt=True).name(PLAIN)
    sealed = Sealer(KEY, encrypt=True).seal(name, PLAIN)
    with pytest.raises(ArchiveError, match="is not what it was"):
        Sealer(OTHER, encrypt=True).unseal(name, sealed)


def test_keys_are_told_apart_without_being_told():
    assert key_id(KEY) != key_id(OTHER)
    assert key_id(KEY) not in KEY.hex()
    assert repr(KEY) not in repr(Sealer(KEY, encrypt=True))
