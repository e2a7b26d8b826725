"""What the API server answers instead of an object: HTTP status, reason and words, as a Status."""

from __future__ import annotations

from typing import Any


class ApiProblem(Exception):
    """Ends a request."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def to_status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def not_found(plural: str, name: str) -> ApiProblem:
    return ApiProblem(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)


def already_exists(plural: str, name: str) -> ApiProblem:
    return ApiProblem(409, "AlreadyExists", f'{plural} "{name}" already exists', name=name, kind=plural)


def conflict(plural: str, name: str, why: str = "") -> ApiProblem:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {plural} "{name}": {why}'
    return ApiProblem(409, "Conflict", message, name=name, kind=plural)


def invalid(kind: str, name: str, field: str, why: str) -> ApiProblem:
    message = f'{kind} "{name}" is invalid: {field}: {why}'
    causes = [{"reason": "FieldValueInvalid", "message": why, "field": field}]
    return ApiProblem(422, "Invalid", message, name=name, kind=kind, causes=causes)


def bad_request(message: str) -> ApiProblem:
    return ApiProblem(400, "BadRequest", message)


def gone(why: str) -> ApiProblem:
    return ApiProblem(410, "Expired", why)
