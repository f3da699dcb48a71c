"""A decision as it is digested: by the archive's chain, and by the tree that its org can prove it with.

The bytes say where the decision stands and what it is, and can be made again by anyone who has the three:

    position in decimal ‖ LF ‖ subject in UTF-8 ‖ LF ‖ body

A position and a subject hold no LF, so that no two decisions have the same bytes.
"""

import hashlib

NO_CHAIN = bytes(32)
"""The chain before the first position."""


def leaf_bytes(position: int, subject: str, body: bytes) -> bytes:
    """What is digested of the decision at `position`."""
    return b"%d\n%s\n%s" % (position, subject.encode(), body)


def next_chain(chain: bytes, leaf: bytes) -> bytes:
    """The chain with one more decision: SHA-256 (FIPS 180-4) of the chain before it, 32 bytes, and the leaf bytes."""
    return hashlib.sha256(chain + leaf).digest()
