"""The endpoints of the emulated RunPod: a request in, the described body out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.emulators.runpod.cloud import ApiError, RunpodCloud
from harness.emulators.runpod.pods import Pod, rfc3339
from harness.emulators.runpod.stock import Row, StockFilter, gpu_type

Answer = tuple[int, Any]
HOST_LINES = ("create container", "start container")


@dataclass
class Call:
    """A request after its address and key were understood."""

    pod: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    drop_reply: bool = False
    broken_reply: str = ""
    after_reply: list[Callable[[], None]] = field(default_factory=list)


def search(cloud: RunpodCloud, call: Call) -> Answer:
    """GET /v2/catalog/gpus."""
    query = call.query
    has_availability = query.get("include") == "AVAILABILITY"
    filters = set(query) & {"product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion"}
    if has_availability != ("product" in query) or (filters and not has_availability):
        raise ApiError(400, "Bad Request", "availability, its product and its filters need one another")
    if "cudaVersions" in query and "minCudaVersion" in query:
        raise ApiError(400, "Bad Request", "cudaVersions and minCudaVersion are mutually exclusive")
    if not has_availability:
        return 200, {"gpus": [gpu_type(gpu, cloud.shelves, None) for gpu in cloud.gpus.values()]}
    wanted = StockFilter(
        count=int(query.get("count", "1")),
        cloud=query.get("cloud", "SECURE"),
        countries=tuple(filter(None, query.get("countryCodes", "").split(","))),
        cuda=tuple(filter(None, query.get("cudaVersions", "").split(","))),
        min_cuda=query.get("minCudaVersion", ""),
    )
    rows = [gpu_type(gpu, cloud.shelves, wanted) for gpu in cloud.gpus.values()]
    known = [row for row in rows if not wanted.countries or wanted.of(cloud.shelves, row["id"])]
    return 200, {"gpus": known}


def create(cloud: RunpodCloud, call: Call) -> Answer:
    """POST /v2/pods."""
    body = call.body
    gpu = body.get("gpu")
    if gpu is None or "cpu" in body:
        raise ApiError(400, "Bad Request", "exactly one of gpu and cpu must be set (this emulator has no CPU pods)")
    if gpu.get("allowedCudaVersions") and "minCudaVersion" in gpu:
        raise ApiError(400, "Bad Request", "allowedCudaVersions and minCudaVersion are mutually exclusive")
    if cloud.faults.take("no_credit") or cloud.credit() <= 0:
        raise ApiError(402, "Payment Required", "the balance is too low to start a pod")
    count = int(gpu.get("count", 1))
    wanted = StockFilter(
        count=count,
        cloud=str(body.get("cloud", "SECURE")),
        data_centers=tuple(body.get("dataCenterIds") or ()),
        cuda=tuple(gpu.get("allowedCudaVersions") or ()),
        min_cuda=str(gpu.get("minCudaVersion", "")),
    )
    shelf = None if cloud.faults.take("no_capacity") else cloud.place(str(gpu["id"]), wanted)
    if shelf is None:
        raise ApiError(400, "Bad Request", "There are no instances currently available")
    one = cloud.create(shelf, body, count)
    call.drop_reply = cloud.faults.take("lose_reply_to_create")
    call.broken_reply, cloud.faults.break_reply_to_create = cloud.faults.break_reply_to_create, ""
    return 201, one.row(cloud.clock())


def rows_of(cloud: RunpodCloud, pods: list[Pod]) -> list[Row]:
    """Pods as the service shows them."""
    rows = [one.row(cloud.clock()) for one in pods]
    if rows and cloud.faults.next_rows:
        rows[0] |= cloud.faults.next_rows.pop(0)
    missing = cloud.faults.missing_fields
    return [{name: value for name, value in row.items() if name not in missing} for row in rows]


def show(cloud: RunpodCloud, call: Call) -> Answer:
    """GET /v2/pods/{id}."""
    if cloud.faults.take("show_500_times"):
        raise ApiError(500, "Internal Server Error", "upstream failure")
    return 200, rows_of(cloud, [mine(cloud, call.pod, shown=cloud.faults.terminated_is_shown)])[0]


def mine(cloud: RunpodCloud, name: str, *, shown: bool = False) -> Pod:
    """The pod of this name."""
    for one in cloud.instances:
        if one.id == name and (one.live or shown):
            return one
    raise ApiError(404, "Not Found", "pod not found")


def list_pods(cloud: RunpodCloud, _call: Call) -> Answer:
    """GET /v2/pods."""
    if cloud.faults.take("list_empty"):
        return 200, {"pods": []}
    before = cloud.clock() - cloud.faults.list_lag_s
    return 200, {"pods": rows_of(cloud, [one for one in cloud.live() if one.created_at <= before])}


def destroy(cloud: RunpodCloud, call: Call) -> Answer:
    """DELETE /v2/pods/{id}."""
    one = mine(cloud, call.pod)
    if cloud.faults.take("destroy_fails_times"):
        raise ApiError(500, "Internal Server Error", "upstream failure")
    cloud.destroy(one)
    return 204, None


def events(cloud: RunpodCloud, pod: Pod, query: Mapping[str, str]) -> list[str]:
    """The log of a pod as events of a stream, oldest first."""
    at = rfc3339(cloud.clock())
    lines: list[tuple[str, str]] = [("system", line) for line in HOST_LINES]
    if cloud.faults.logs_show_onstart and pod.log_path.exists():
        text = pod.log_path.read_text("utf-8", "replace")
        lines += [("container", line) for line in text[: text.rfind("\n") + 1].splitlines()]
    wanted = [(source, line) for source, line in lines if source == query.get("source", source)]
    tail = int(query.get("tail", "100"))
    numbered = list(enumerate(wanted))[-tail:] if tail else []
    return [
        f"id: {at}/{number:012d}\ndata: {json.dumps({'ts': at, 'source': source, 'line': line})}\n\n"
        for number, (source, line) in numbered
    ]


def ctl(cloud: RunpodCloud, pod: Pod, body: Mapping[str, Any], later: list[Callable[[], None]]) -> None:
    """What runpodctl in a pod does to the pod itself; the pod hears the answer first."""
    if body.get("id") != pod.id:
        raise ApiError(403, "Forbidden", "access denied")
    if cloud.faults.take("destroy_fails_times"):
        raise ApiError(500, "Internal Server Error", "upstream failure")
    later.append(lambda: cloud.destroy(pod) if body.get("action") == "remove" else cloud.stop_instance(pod))


ENDPOINTS: dict[str, tuple[str, Callable[[RunpodCloud, Call], Answer]]] = {
    "listGpuTypes": ("search", search),
    "createPod": ("create", create),
    "listPods": ("list", list_pods),
    "getPod": ("show", show),
    "deletePod": ("destroy", destroy),
}
"""By operation of the description: its name in `faults.next_status`, and what answers it."""
LOGS = "getPodLogs"
