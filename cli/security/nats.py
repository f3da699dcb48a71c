"""NATS as `dex security check` sees it: what each process's user may do, who is let in, how the streams are guarded."""

import asyncio
from collections.abc import Iterator
from typing import Any

import nats.errors
from nats.aio.client import Client

from cli.security.report import Audited, Finding, is_loopback, parts_of
from events import strictjson, subjects
from events.connection import inbox_prefix
from migrations.streams import check_streams

TIMEOUT_S = 3
_REFUSED = (nats.errors.Error, OSError, TimeoutError)
DESTROYS = tuple(
    f"$JS.API.STREAM.{verb}.{subjects.EVENTS}" for verb in ("UPDATE", "DELETE", "PURGE", "MSG.DELETE", "RESTORE")
)
WRITERS = ("command-service", "worker")
WRITES = "events.any.token.any.1.log.token"
USERS_TODO = "users and permissions of migrations/nats_accounts.conf"


async def check_nats(audited: Audited) -> list[Finding]:
    """Users, the door, transport and streams."""
    url = audited.endpoints.nats_url
    try:
        operator = await _connect(url)
    except _REFUSED:
        return [Finding("nats", "operator", "cannot connect", "weak", "is its URL right?")]
    try:
        own = await _user_info(operator)
        findings = [Finding("nats", "operator", f"{own.get('user')} of account {own.get('account')}")]
        for process in audited.nats_users:
            findings += await _check_user(audited, process, own)
        settings = audited.settings
        faults = await check_streams(operator, settings.nats_replicas, settings.events_max_bytes)
        findings += [Finding("nats", "streams", fault, "weak", "dex status; mend it by hand") for fault in faults]
        if not faults:
            findings.append(Finding("nats", "streams", "as they must be: the log denies deletes and purges"))
        findings += _check_transport(audited, operator)
    finally:
        await operator.close()
    return [*findings, *await _check_door(url), *_check_sync(audited)]


async def _connect(url: str) -> Client:
    """A connection to one of a URL's servers, or the refusal of the last: at once, where others would try again."""
    servers = [server.strip() for server in url.split(",")]

    async def keep_silent(_: Exception) -> None:
        """What is refused is raised too."""

    for server in servers:
        client = Client()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await client.connect(
                    server,
                    allow_reconnect=False,
                    connect_timeout=TIMEOUT_S,
                    inbox_prefix=inbox_prefix(servers),
                    error_cb=keep_silent,
                )
            return client
        except _REFUSED:
            await client.close()
            if server == servers[-1]:
                raise
    raise AssertionError("unreachable")


async def _user_info(connection: Client) -> dict[str, Any]:
    """What the server says of the connection's user: name, account, permissions (none: it may do everything)."""
    answer = await connection.request("$SYS.REQ.USER.INFO", b"", timeout=TIMEOUT_S)
    data: dict[str, Any] = strictjson.loads(answer.data).get("data", {})
    return data


async def _check_user(audited: Audited, process: str, operator: dict[str, Any]) -> list[Finding]:
    try:
        connection = await _connect(audited.url_of("nats", process))
    except _REFUSED:
        return [Finding("nats", process, "cannot connect", "weak", "is its URL right?")]
    try:
        info = await _user_info(connection)
    except nats.errors.Error:
        return [Finding("nats", process, "may not ask what it may do", "weak", USERS_TODO)]
    finally:
        await connection.close()
    who = f"{info.get('user')} of account {info.get('account')}"
    faults = list(user_faults(process, info, operator))
    if faults:
        return [Finding("nats", process, f"{who} {fault}", "weak", USERS_TODO) for fault in faults]
    permissions = info["permissions"]
    allowed = {verb: permissions.get(verb, {}).get("allow", [">"]) for verb in ("publish", "subscribe")}
    told = ", ".join(f"may {verb} {len(subjects)} subjects" for verb, subjects in allowed.items())
    return [Finding("nats", process, f"{who}, {told}", details=allowed)]


def user_faults(process: str, info: dict[str, Any], operator: dict[str, Any]) -> Iterator[str]:
    """What a process's user may do and must not."""
    permissions = info.get("permissions") or {}
    if info.get("user") == operator.get("user"):
        yield "is the operator's own user"
        return
    if destroying := [subject.removeprefix("$JS.API.") for subject in DESTROYS if may(permissions, "publish", subject)]:
        yield f"may change or empty the log ({', '.join(destroying)})"
    if process not in WRITERS:
        if may(permissions, "publish", WRITES):
            yield "may write to the log"
        if info.get("account") == operator.get("account"):
            yield "shares the log's account: by a reply subject it can write to the log"
    if info.get("account") == operator.get("account") and may(permissions, "subscribe", "_INBOX_operator.any.1"):
        yield "may listen to the answers that others get"


def may(permissions: dict[str, Any], verb: str, subject: str) -> bool:
    """Whether permissions, as the server tells them, allow a subject. None told means that everything is allowed."""
    told = permissions.get(verb) or {}
    allowed = told.get("allow")
    if any(matches(pattern, subject) for pattern in told.get("deny") or ()):
        return False
    return not allowed or any(matches(pattern, subject) for pattern in allowed)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern's; a queue's name behind a blank narrows the pattern, and is left out."""
    wanted, tokens = pattern.split(" ")[0].split("."), subject.split(".")
    if wanted[-1] == ">" and len(tokens) >= len(wanted):
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1]
    return len(wanted) == len(tokens) and all(a in ("*", b) for a, b in zip(wanted, tokens, strict=True))


def _check_transport(audited: Audited, operator: Client) -> list[Finding]:
    parts = parts_of(audited.endpoints.nats_url)
    if is_loopback(parts.hostname):
        return [Finding("nats", "transport", "on this machine only")]
    if parts.scheme == "tls" or (operator.connected_url is not None and operator.connected_url.scheme == "tls"):
        return [Finding("nats", "transport", "TLS")]
    return [Finding("nats", "transport", "no TLS", audited.unless_development, "tls {} in nats.conf, tls:// URLs")]


async def _check_door(url: str) -> list[Finding]:
    """Whether somebody without a name gets in."""
    parts = parts_of(url)
    try:
        connection = await _connect(parts._replace(netloc=f"{parts.hostname}:{parts.port or 4222}").geturl())
    except _REFUSED:
        return [Finding("nats", "door", "nobody gets in without a password")]
    await connection.close()
    return [Finding("nats", "door", "anonymous connections are accepted", "weak", USERS_TODO)]


def _check_sync(audited: Audited) -> list[Finding]:
    """Whether an acknowledged message is on disk: three replicas, or a flush for each."""
    if audited.settings.nats_replicas >= 3:
        return [Finding("nats", "durability", f"{audited.settings.nats_replicas} replicas of each stream")]
    config = audited.settings.home / "nats" / "nats.conf"
    if "nats" not in audited.state.get("processes", {}) or not config.exists():
        return [Finding("nats", "durability", "sync_interval cannot be read here", "notice", "sync_interval: always")]
    if "sync_interval: always" in config.read_text():
        return [Finding("nats", "durability", "every message is flushed (sync_interval: always)")]
    return [Finding("nats", "durability", "sync_interval is not always", "weak", "start with `dex up` again")]
