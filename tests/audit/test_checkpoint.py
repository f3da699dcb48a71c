"""Signed notes and checkpoints: the specification's own vectors, and whatever is no note."""

from base64 import b64encode
from datetime import UTC, datetime

import pytest

from events.audit.checkpoint import AuditKey, Checkpoint, SignedCheckpoint
from events.audit.note import Note, Verifier
from events.errors import ConfigurationError, ProofError

ORG = "0b9f2a4e-5a0f-5c3e-9d53-0d3e6f6c7a11"
OTHER = "7c5b1f0a-93a8-5d0c-8e0e-5f6a0f1d2b22"
KEY = AuditKey.of(b64encode(bytes(range(32))).decode(), "history.example")
CHECKPOINT = Checkpoint(KEY.origin(ORG), 7, bytes(32), 41, "e1", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

# Of golang.org/x/mod/sumdb/note's documentation.
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_another_implementation() -> None:
    verifier = Verifier.parse(GO_VERIFIER)
    assert str(verifier) == GO_VERIFIER
    Note.parse(GO_NOTE).check(verifier)
    with pytest.raises(ProofError, match="does not hold"):
        Note.parse(GO_NOTE.replace("answer", "Answer")).check(verifier)


def test_a_checkpoint_there_and_back() -> None:
    signed = KEY.sign(CHECKPOINT)
    found = SignedCheckpoint.parse(signed)
    assert found.checkpoint == CHECKPOINT
    assert found.checkpoint.org_id == ORG
    for verifier in (KEY.verifier(), KEY.verifier(ORG), Verifier.parse(str(KEY.verifier(ORG)))):
        found.check(verifier)
    assert signed == (
        f"history.example/{ORG}\n7\n{b64encode(bytes(32)).decode()}\nposition 41\nepoch e1\n"
        f"time 2026-01-02T03:04:05Z\n\n— history.example/{ORG} {signed.rpartition(' ')[2]}"
    )


def test_another_witness_may_sign_too() -> None:
    line = GO_NOTE.rpartition("\n\n")[2]
    SignedCheckpoint.parse(KEY.sign(CHECKPOINT) + line).check(KEY.verifier(ORG))


def test_keys_that_did_not_sign_it() -> None:
    found = SignedCheckpoint.parse(KEY.sign(CHECKPOINT))
    stranger = AuditKey.of(b64encode(bytes(32)).decode(), "history.example")
    for verifier, message in (
        (stranger.verifier(ORG), "not signed by"),
        (stranger.verifier(), "not signed by"),
        (KEY.verifier(OTHER), "the key is of"),
        (AuditKey.of(b64encode(bytes(range(32))).decode(), "other.example").verifier(), "the key is of"),
    ):
        with pytest.raises(ProofError, match=message):
            found.check(verifier)


def test_no_bit_of_a_checkpoint_can_be_changed() -> None:
    signed, verifier = KEY.sign(CHECKPOINT).encode(), KEY.verifier(ORG)
    for bit in range(8 * len(signed)):
        changed = bytearray(signed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ProofError, UnicodeDecodeError)):
            SignedCheckpoint.parse(changed.decode()).check(verifier)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a\n\n", "a\n\nb\n", "a\n\n— b c\n", "a\n\n— b+c AAAAAAAA\n", "a\n\n— b AAAA\n",
     "a\x01\n\n— b AAAAAAAA\n",
     "a\n\n— b AAAAAAAA", "x" * 70_000],
)  # fmt: skip
def test_no_notes(text: str) -> None:
    with pytest.raises(ProofError):
        Note.parse(text)


@pytest.mark.parametrize(
    "change",
    [("\n7\n", "\n07\n"), ("\n7\n", "\n-1\n"), ("\n7\n", "\n+7\n"), ("\n7\n", "\n٧\n"), ("AAA=", "AA=="),
     ("position 41\n", ""),
     ("epoch e1\n", ""), ("time 2026-", "time x026-"), (ORG, "x"), ("history.example/", "history example/")],
)  # fmt: skip
def test_no_checkpoints(change: tuple[str, str]) -> None:
    assert change[0] in CHECKPOINT.text()
    with pytest.raises(ProofError):
        Checkpoint.parse(CHECKPOINT.text().replace(*change))


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", "a+00000000+AAAA", GO_VERIFIER.replace("c74", "c75"), GO_VERIFIER[:-4], "a b" + GO_VERIFIER],
)
def test_no_verifiers(text: str) -> None:
    with pytest.raises(ProofError):
        Verifier.parse(text)


@pytest.mark.parametrize("secret", ["", "x", "AAAA", b64encode(bytes(33)).decode()])
def test_a_setting_that_is_no_key(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="DATA_ENGINE_AUDIT_KEY"):
        AuditKey.of(secret, "history.example")
    with pytest.raises(ConfigurationError, match="no name of a key"):
        AuditKey.of(b64encode(bytes(32)).decode(), "a b")
