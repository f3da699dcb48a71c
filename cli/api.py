"""The HTTP API as the command line uses it: the same way in as every other client."""

import uuid
from typing import Any

import httpx

from events.errors import DataEngineError

TIMEOUT_S = 90.0


class ApiError(DataEngineError):
    """The gateway refused; the message is that of its problem details (RFC 9457)."""

    code = "api_error"


class Api:
    """Calls endpoints by name with a token. Errors of the gateway are raised as ApiError."""

    def __init__(self, base_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"{base_url}/v1/", headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S
        )

    def call(self, endpoint: str, body: dict[str, Any] | None = None, *, key: str | None = None) -> dict[str, Any]:
        """POST to `endpoint` ("runs/get"); `key` is the Idempotency-Key. Raises ApiError."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            response = self._http.post(endpoint, json=body or {}, headers=headers)
        except httpx.TransportError as error:
            raise ApiError(f"The gateway does not answer at {self._http.base_url}: {error}") from error
        answer: dict[str, Any] = response.json()
        if response.status_code >= 400:
            faults = "".join(f"\n  {fault['path']}: {fault['message']}" for fault in answer.get("errors") or [])
            detail = answer.get("detail") or answer.get("title")
            raise ApiError(f"{endpoint} answered {response.status_code}: {detail}{faults}", status=response.status_code)
        return answer

    def create(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """As `call`, with a fresh Idempotency-Key, so that a repeat after a lost answer is harmless."""
        return self.call(endpoint, body, key=str(uuid.uuid4()))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()
