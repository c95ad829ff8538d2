"""openapi.json (3.1), made from the routes and the models, so that it cannot say anything that is not so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orchestrator.api import problem
from orchestrator.api.route import Route
from orchestrator.core.answer import Problem
from orchestrator.errors import OrchestratorError

Document = dict[str, Any]

REF = "#/components/schemas/{model}"
PATTERNS = {"agentId": "The agent", "taskId": "The task"}
#: What any request can meet; the second group only where a token is asked for.
ALWAYS: tuple[type[OrchestratorError], ...] = (
    problem.RequestRefused,
    problem.HostRefused,
    problem.OriginRefused,
    problem.Invalid,
    problem.RateLimited,
    OrchestratorError,
)
LOCKED: tuple[type[OrchestratorError], ...] = (problem.TokenNeeded, problem.ScopeMissing)


def document(routes: Iterable[Route], version: str) -> Document:
    """Return the document."""
    routes = list(routes)
    models = {model for route in routes for model in _models(route)} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    paths: Document = {}
    for route in routes:
        for number, path in enumerate((route.path, *route.also)):
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, number)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Orchestrator",
            "version": version,
            "description": "An execution plane for coding agents: queue, check out, sandbox, judge, land.",
        },
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _models(route: Route) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [answer.model for answer in route.returns.values() if answer.model]
    return [*found, route.body] if route.body else found


def _operation(route: Route, number: int) -> Document:
    operation: Document = {
        "operationId": route.name if number == 0 else f"{route.name}{number + 1}",
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {**_errors(route), **_answers(route)},
    }
    if route.scope is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs the scope `{route.scope}`."
    if route.body is not None:
        content = {"schema": _reference(route.body), "example": route.body_example}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _reference(model: type[BaseModel]) -> Document:
    return {"$ref": REF.format(model=model.__name__)}


def _path_parameters(route: Route) -> list[Document]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATTERNS[name],
            "schema": {"type": "string", "maxLength": 128},
        }
        for name in route.variables
    ]


def _query_parameters(route: Route) -> list[Document]:
    schema = route.query.model_json_schema(by_alias=True)
    shared = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _inlined(field, shared),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _inlined(value: Any, shared: Document) -> Any:  # noqa: ANN401 - any JSON value
    """Return the schema with its references replaced: parameters stand alone."""
    if isinstance(value, dict):
        if "$ref" in value:
            return _inlined(shared[value["$ref"].rpartition("/")[2]], shared)
        return {key: _inlined(inner, shared) for key, inner in value.items()}
    return [_inlined(inner, shared) for inner in value] if isinstance(value, list) else value


def _header_parameters(route: Route) -> list[Document]:
    found = []
    if route.keyed:
        found.append(("Idempotency-Key", "A repeated request with the same key is done once"))
    if route.tag == "streams" and route.socket is None:
        found.append(("Last-Event-ID", "Where the last connection ended"))
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": "string", "maxLength": 255},
        }
        for name, description in found
    ]


def _answers(route: Route) -> Document:
    answers: Document = {}
    for status, returns in route.returns.items():
        described: Document = {"description": returns.description}
        if status != 101:
            schema = _reference(returns.model) if returns.model else {"type": _type_of(returns.media_type)}
            content: Document = {"schema": schema}
            if returns.example is not None:
                content["example"] = returns.example
            described["content"] = {returns.media_type: content}
        answers[str(status)] = described
    return answers


def _type_of(media_type: str) -> str:
    return "object" if media_type == "application/json" else "string"


def _errors(route: Route) -> Document:
    kinds = [*ALWAYS, *(LOCKED if route.scope is not None else ()), *route.errors]
    found: Document = {}
    for kind in kinds:
        examples = found.setdefault(
            str(kind.status),
            {
                "description": "",
                "content": {problem.MEDIA_TYPE: {"schema": _reference(Problem), "examples": {}}},
            },
        )["content"][problem.MEDIA_TYPE]["examples"]
        examples[kind.code] = {"value": json.loads(problem.render(_instance(kind)))}
    for answer in found.values():
        answer["description"] = "; ".join(sorted(answer["content"][problem.MEDIA_TYPE]["examples"]))
    return found


def _instance(kind: type[OrchestratorError]) -> OrchestratorError:
    if issubclass(kind, problem.Invalid):
        return kind([problem.FieldError("context.branch", "is not a name that git allows for a branch")])
    if issubclass(kind, problem.RateLimited):
        return kind(1.0)
    return kind()
