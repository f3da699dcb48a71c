"""Postgres as `dex security check` sees it: what the processes may do, what tables show, which tokens live."""

from collections.abc import AsyncIterator, Iterator

import asyncpg

from cli.database_roles import CONNECT_TIMEOUT_S, GROUPS, MAY_DO_WITHOUT, role_facts
from cli.security.report import Audited, Finding, is_loopback, parts_of
from projections.server_files import values_logged

SCHEMA = "data_engine"

TABLES = """
SELECT class.relname AS name, class.relispartition AS is_partition, class.relkind = 'v' AS is_view,
       class.relrowsecurity OR class.relkind = 'v' AND 'security_invoker=true' = ANY(class.reloptions) AS secured,
       EXISTS (SELECT FROM pg_attribute AS column_ WHERE column_.attrelid = class.oid
               AND column_.attname = 'org_id' AND NOT column_.attisdropped) AS of_tenants,
       ARRAY(SELECT policyname::text FROM pg_policies
             WHERE schemaname = $1 AND tablename = class.relname ORDER BY 1) AS policies,
       ARRAY(SELECT privilege_type::text FROM aclexplode(class.relacl)
             WHERE grantee = 0 ORDER BY 1) AS for_public
FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE namespace.nspname = $1 AND class.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1
"""
SCHEMA_FOR_PUBLIC = """
SELECT array_agg(privilege_type::text) FROM pg_namespace, aclexplode(nspacl) WHERE nspname = $1 AND grantee = 0
"""
FUNCTIONS_FOR_PUBLIC = """
SELECT proname::text AS name FROM pg_proc JOIN pg_namespace AS namespace ON namespace.oid = pronamespace
WHERE nspname = $1 AND prosecdef AND has_function_privilege('public', pg_proc.oid, 'EXECUTE') ORDER BY 1
"""
INVITATIONS = """
SELECT count(*) FROM data_engine.users_v2
WHERE invitation_id IS NOT NULL AND identity IS NULL AND deactivated_at IS NULL AND invitation_expires_at > now()
"""
USES_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
TOKENS = """
SELECT count(*) AS active, count(*) FILTER (WHERE expires_at IS NULL) AS without_expiry,
       coalesce(extract(day FROM now() - min(created_at)), 0)::int AS oldest_days
FROM data_engine.tokens_v2 WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


async def check_postgres(audited: Audited) -> list[Finding]:
    """Roles, tables and tokens."""
    own = audited.endpoints.process_database_urls
    connecting = [process for process in GROUPS if process in own or process not in MAY_DO_WITHOUT]
    findings = [finding for process in connecting async for finding in _check_role(audited, process)]
    try:
        connection = await _connect(audited.endpoints.database_url)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        return [*findings, _unreachable("operator", error)]
    try:
        facts = await role_facts(connection)
        findings.append(Finding("postgres", "operator", f"{facts.name}, for migrations and rebuilds only"))
        findings += await _check_tables(connection)
        findings += await _check_tokens(connection)
        for logged in await values_logged(connection):
            findings.append(Finding("postgres", "the server's log", logged.what, "notice", logged.todo))
    finally:
        await connection.close()
    return findings


async def _connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)


def _unreachable(who: str, error: Exception) -> Finding:
    # the kind of error alone: its text may have the URL in it
    return Finding("postgres", who, f"cannot connect ({type(error).__name__})", "weak", "is its URL right?")


async def _check_role(audited: Audited, process: str) -> AsyncIterator[Finding]:
    url = audited.url_of("database", process)
    try:
        connection = await _connect(url)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        yield _unreachable(process, error)
        return
    try:
        facts, uses_tls = await role_facts(connection), bool(await connection.fetchval(USES_TLS))
    finally:
        await connection.close()
    faults = [*facts.excess(), *(["has CREATEROLE"] if facts.create_role else [])]
    if faults:
        yield Finding("postgres", process, f"{facts.name} {' and '.join(faults)}", "weak", "dex database roles")
    else:
        yield Finding("postgres", process, f"{facts.name}: no superuser, owns nothing, bound by row-level security")
    if not uses_tls and not is_loopback(parts_of(url).hostname):
        yield Finding("postgres", process, "no TLS", audited.unless_development, "sslmode=verify-full in its URL")


async def _check_tables(connection: asyncpg.Connection) -> list[Finding]:
    rows = await connection.fetch(TABLES, SCHEMA)
    findings = [finding for row in rows for finding in _table_findings(row)]
    if for_public := await connection.fetchval(SCHEMA_FOR_PUBLIC, SCHEMA):
        what = f"PUBLIC has {', '.join(for_public)}"
        findings.append(Finding("postgres", SCHEMA, what, "weak", f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC"))
    for row in await connection.fetch(FUNCTIONS_FOR_PUBLIC, SCHEMA):
        where, what = f"{SCHEMA}.{row['name']}", "anybody may call a function that runs as the owner"
        findings.append(Finding("postgres", where, what, "weak", "REVOKE ALL ON FUNCTION … FROM PUBLIC"))
    return findings


def _table_findings(row: asyncpg.Record) -> Iterator[Finding]:
    where = f"{SCHEMA}.{row['name']}"
    if row["for_public"]:
        what = f"PUBLIC has {', '.join(row['for_public'])}"
        yield Finding("postgres", where, what, "weak", f"REVOKE ALL ON {where} FROM PUBLIC")
    if not row["of_tenants"]:
        yield Finding("postgres", where, "no tenant's data")
    elif not row["secured"]:
        yield Finding("postgres", where, "row-level security is off", "weak", "ENABLE ROW LEVEL SECURITY; dex migrate")
    elif row["is_view"]:
        yield Finding("postgres", where, "row-level security of the table behind it")
    elif row["is_partition"] and not row["policies"]:
        yield Finding("postgres", where, "row-level security: only through the table that it is a part of")
    elif not row["policies"]:
        yield Finding("postgres", where, "row-level security without a policy", "weak", "a policy for org_id")
    else:
        yield Finding("postgres", where, f"row-level security: {', '.join(row['policies'])}")


async def _check_tokens(connection: asyncpg.Connection) -> list[Finding]:
    """How many tokens open the API, how old they are, and how many invitations wait."""
    row = await connection.fetchrow(TOKENS)
    assert row is not None, "an aggregate has a row"
    what = f"{row['active']} active, {row['without_expiry']} without expiry, the oldest {row['oldest_days']} days old"
    invitations = Finding("tokens", "invitations", f"{await connection.fetchval(INVITATIONS)} open")
    if row["without_expiry"]:
        return [invitations, Finding("tokens", "API tokens", what, "notice", "give tokens an expiry; rotate old ones")]
    return [invitations, Finding("tokens", "API tokens", what)]
