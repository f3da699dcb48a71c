"""Making secrets for a caller's org: kept as a hash before the decision that puts them into use."""

from events.secrets import Secret, new_secret, verifier_of
from gateway.calls import Call
from projections.queries import access


async def issue(call: Call, prefix: str) -> Secret:
    """A secret whose hash is kept in the caller's org. It opens nothing before a decision names its id."""
    secret = new_secret(prefix)
    await access.add_credential(call.gateway.reader, call.org_id, secret.secret_id, verifier_of(secret.text))
    return secret
