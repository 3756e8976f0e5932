"""A Prefect server in this process, as far as our commands ask one: Prefect's own client, without a network."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx

URL = "http://prefect.test/api"
DEPLOYMENT, FLOW = UUID(int=7), UUID(int=8)
KINDS = {"AwaitingRetry": "SCHEDULED", "Suspended": "PAUSED", "GaveUp": "CANCELLED", "Duplicate": "CANCELLED"}
"""Types of states whose names are others."""
Refusal = httpx.Response | httpx.TransportError
Answer = dict[str, Any] | list[dict[str, Any]] | httpx.Response


class PrefectApi:
    """Answers what a test puts here; notes what was asked of it and what it was told to do."""

    def __init__(self) -> None:
        self.deployments = {"train-pipeline/train-pipeline"}
        self.automations: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.heartbeats: dict[str, str] = {}
        self.states: dict[str, list[dict[str, Any]]] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, Refusal | Callable[[], Refusal]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """One request."""
        path = request.url.path.removeprefix("/api")
        body = json.loads(request.content) if request.content else {}
        last = path.rstrip("/").rpartition("/")[2]
        if last in self.refusals:
            refusal = self.refusals[last]
            refusal = refusal() if callable(refusal) else refusal
            if isinstance(refusal, httpx.TransportError):
                raise refusal
            return refusal
        answers: dict[str, Callable[[], Answer]] = {
            "/csrf-token": lambda: httpx.Response(422, json={"detail": "CSRF protection is disabled."}),
            "/automations/filter": lambda: [
                self.automations[name] for name in body["automations"]["name"]["any_"] if name in self.automations
            ],
            "/flow_runs/filter": lambda: self._runs(body),
            "/flow_run_states/": lambda: self.states.get(request.url.params["flow_run_id"], []),
            "/events/filter": lambda: {"events": self._events(body), "total": 0},
            "/work_pools/filter": list,
            "/flows/filter": list,
            "/deployments/filter": lambda: self._deployments(body),
        }
        if path in answers:
            answer = answers[path]()
        elif request.method == "GET" and path.startswith("/flow_runs/"):
            answer = self._run(last)
        elif path.startswith("/deployments/name/"):
            answer = self._deployment(path.removeprefix("/deployments/name/"))
        else:
            self.told.append((path, body))
            accepted: Answer = {"status": "ACCEPT", "details": {}, "state": body.get("state")}
            answer = accepted if last == "set_state" else _flow_run("made", body)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def add_run(self, state: str, *, timestamp: str, **parameters: Any) -> str:
        """A flow run in this state since then; its id."""
        run = _flow_run(f"run-{len(self.runs)}", {"parameters": parameters})
        kind = KINDS.get(state, state.upper())
        run |= {"state_type": kind, "state_name": state, "end_time": timestamp, "expected_start_time": timestamp}
        run["state"] = {"type": kind, "name": state, "timestamp": timestamp}
        run["start_time"] = timestamp
        self.runs.append(run)
        return str(run["id"])

    def add_states(self, run_id: str, *names: str) -> None:
        """The states that a run went through, a second apart, after those that it has."""
        states = self.states.setdefault(run_id, [])
        for name in names:
            kind = KINDS.get(name, name.upper())
            states.append({"type": kind, "name": name, "timestamp": f"2026-01-01T00:00:{len(states):02}Z"})

    def _run(self, run_id: str) -> dict[str, Any]:
        """A run as it is now."""
        state = self.states[run_id][-1]
        known = {"state": state, "state_type": state["type"], "state_name": state["name"], "run_count": 1}
        return {**_flow_run("run", {}), **known, "id": run_id}

    def _runs(self, body: dict[str, Any]) -> Answer:
        wanted = body["flow_runs"]
        state = wanted.get("state") or {}
        kinds, names = (state.get("type") or {}).get("any_"), (state.get("name") or {}).get("any_")
        before = (wanted.get("end_time") or {}).get("before_")
        found = [
            run
            for run in self.runs
            if (kinds is None or run["state_type"] in kinds)
            and (names is None or run["state_name"] in names)
            and (before is None or run["end_time"] < before)
        ]
        start = body.get("offset", 0)
        return found[start : start + body["limit"]]

    def _events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        [resource] = body["filter"]["resource"]["id"]
        beat = self.heartbeats.get(resource.removeprefix("prefect.flow-run."))
        return [{"received": beat}] if beat else []

    def _deployments(self, body: dict[str, Any]) -> Answer:
        flows = body["flows"]["name"]["any_"]
        found = [self._deployment(name) for name in sorted(self.deployments) if name.partition("/")[0] in flows]
        return found[body["offset"] :]  # type: ignore[return-value]

    def _deployment(self, name: str) -> Answer:
        known = {"id": str(DEPLOYMENT), "flow_id": str(FLOW), "name": name.partition("/")[2]}
        return known if name in self.deployments else httpx.Response(404, json={"detail": "not found"})


def _flow_run(name: str, body: dict[str, Any]) -> dict[str, Any]:
    known = {"id": str(uuid4()), "flow_id": str(FLOW), "deployment_id": str(DEPLOYMENT), "name": name}
    return {**known, "parameters": body.get("parameters", {})}
