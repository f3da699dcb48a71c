"""The HTTP API as the command line uses it: the same way in as every other client."""

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from events.errors import DataEngineError

TIMEOUT_S = 90.0
UPLOAD_TIMEOUT_S = 600.0
"""That nothing may happen for, while a file goes out."""


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
            raise self._unreachable(error) from error
        return self._answer(endpoint, response)

    def upload(self, endpoint: str, told: dict[str, str], parts: Iterable[bytes], *, key: str) -> dict[str, Any]:
        """POST a file as it is read; what is told of it goes into the query string. Raises ApiError."""
        try:
            response = self._http.post(
                endpoint, params=told, content=parts, headers={"Idempotency-Key": key}, timeout=UPLOAD_TIMEOUT_S
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return self._answer(endpoint, response)

    def download(self, endpoint: str, body: dict[str, Any]) -> Iterator[bytes]:
        """The file that an endpoint answers with, as it comes in. Raises ApiError."""
        try:
            with self._http.stream("POST", endpoint, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                    self._answer(endpoint, response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def lines(self, endpoint: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of JSON that an endpoint answers with, as they come in. Raises ApiError."""
        try:
            with self._http.stream("POST", endpoint, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                    self._answer(endpoint, response)
                for line in response.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"The gateway does not answer at {self._http.base_url}: {error}")

    def _answer(self, endpoint: str, response: httpx.Response) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise ApiError(
                f"{endpoint} answered {response.status_code}, and not as the gateway does: {response.text[:200]!r}. Is "
                f"{self._http.base_url} the gateway, or something before it?",
                status=response.status_code,
            ) from error
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
