"""The bytes that are digested of a decision: they must never change, since proofs hang on them."""

import hashlib

from events.leaf import NO_CHAIN, leaf_bytes, next_chain


def test_the_bytes_are_those_that_the_archive_was_made_with():
    leaf = leaf_bytes(17, "events.o.run.r.1.log.x", b'{"v":1}')
    assert leaf == b'17\nevents.o.run.r.1.log.x\n{"v":1}'
    assert next_chain(NO_CHAIN, leaf) == hashlib.sha256(bytes(32) + leaf).digest()


def test_position_subject_and_body_each_count():
    leaves = [leaf_bytes(1, "events.a", b"b"), leaf_bytes(11, "events.a", b"b"), leaf_bytes(1, "events.ab", b"")]
    assert len(set(leaves)) == 3


def test_the_chain_tells_the_order():
    one, two = leaf_bytes(1, "events.a", b"x"), leaf_bytes(2, "events.a", b"y")
    assert next_chain(next_chain(NO_CHAIN, one), two) != next_chain(next_chain(NO_CHAIN, two), one)
