"""The emulator of RunPod itself: it refuses what is not as described, says what is, and leaves nothing behind."""

import json
import time

import httpx
import pytest

from harness.emulators.processes import MARK
from harness.emulators.runpod.description import answer_faults, description, request_faults, resolved
from harness.emulators.runpod.emulator import RunpodEmulator
from tasks.services.rental.providers.local import marked_processes

ORDER = {
    "name": "one",
    "image": "python",
    "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
    "args": "bash -c 'echo hello; sleep 60'",
    "env": {"A": "b"},
}
HEADERS = {"Authorization": "Bearer k", "Content-Type": "application/json"}
JSON, PROBLEM = {"Content-Type": "application/json"}, {"Content-Type": "application/problem+json"}


@pytest.fixture
def cloud(tmp_path):
    with RunpodEmulator(tmp_path, api_key="k") as emulator:
        emulator.default_market()
        yield emulator


@pytest.fixture
def api(cloud):
    with httpx.Client(base_url=f"{cloud.url}/v2", headers={"Authorization": "Bearer k"}, trust_env=False) as client:
        yield client


def waits_for(condition, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def faults_of(body, method="POST", path="/v2/pods"):
    return request_faults(method, path, HEADERS, json.dumps(body).encode())


def test_every_reference_of_the_description_leads_somewhere():
    def references(node):
        if isinstance(node, dict):
            yield from [node] if "$ref" in node else []
            for value in node.values():
                yield from references(value)
        if isinstance(node, list):
            for value in node:
                yield from references(value)

    found = [node["$ref"] for node in references(dict(description()))]

    assert len(found) > 50
    assert all(resolved({"$ref": one}) for one in found)


def test_an_order_that_is_as_described_has_no_fault():
    assert faults_of(ORDER) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"bogus": 1}, "bogus"),
        ({"disk": 20.5}, "20.5 is not of type 'integer'"),
        ({"env": {"A": 1}}, "1 is not of type 'string'"),
        ({"name": ""}, "should be non-empty"),
        ({"gpu": {"count": 1}}, "'id' is a required property"),
        ({"gpu": {"id": "x", "minCudaVersion": "12"}}, "does not match"),
        ({"cloud": "ALL"}, "is not one of"),
        ({"mounts": {"persistent": {"size": 5, "path": "/x"}}}, "less than the minimum"),
    ],
    ids=str,
)
def test_an_order_that_is_not_is_told_what_is_wrong(change, fault):
    assert fault in "; ".join(faults_of(ORDER | change))


def test_an_order_needs_an_image():
    assert "'image' is a required property" in "; ".join(faults_of({"name": "one"}))


@pytest.mark.parametrize(
    ("method", "target", "fault"),
    [
        ("GET", "/v2/pods?x=1", "no such parameter"),
        ("GET", "/v2/pods/a/logs?tail=9999", "greater than the maximum"),
        ("GET", "/v2/pods/a/logs?source=all", "is not one of"),
        ("GET", "/v2/catalog/gpus?countryCodes=DE,fr", "does not match"),
        ("GET", "/v2/catalog/gpus?count=none", "is not of type 'integer'"),
        ("PATCH", "/v2/pods/a", "is not described"),
        ("GET", "/v1/pods", "is not described"),
    ],
)
def test_so_is_a_question(method, target, fault):
    assert fault in "; ".join(request_faults(method, target, {"Authorization": "Bearer k"}, b""))


def test_a_question_without_a_key_has_a_fault():
    assert request_faults("GET", "/v2/pods", {}, b"") == ["no bearer token in Authorization"]


def test_answers_are_held_against_it_too():
    assert answer_faults("GET", "/v2/pods", 200, JSON, b'{"pods": []}') == []
    assert answer_faults("GET", "/v2/pods", 200, JSON, b"[]")
    assert answer_faults("GET", "/v2/pods", 404, JSON, b"{}")
    assert answer_faults("GET", "/v2/pods/a", 404, PROBLEM, b'{"title": "a", "status": 404, "detail": "b"}') == []
    assert answer_faults("DELETE", "/v2/pods/a", 204, {}, b"") == []
    assert answer_faults("DELETE", "/v2/pods/a", 204, {}, b"{}")


def test_what_is_not_as_described_is_refused_and_remembered(cloud, api):
    said = api.post("/pods", json=ORDER | {"bogus": 1})

    assert (said.status_code, said.json()["title"]) == (422, "Unprocessable Entity")
    assert "bogus" in said.json()["errors"][0]
    assert len(cloud.rejected) == 1
    assert cloud.instances == []


def test_a_pod_runs_its_arguments_with_its_variables_and_is_billed_until_it_is_deleted(cloud, api):
    made = api.post("/pods", json=ORDER)
    assert (made.status_code, made.json()["status"]) == (201, "PROVISIONING")
    number = made.json()["id"]
    pod = cloud.instance(number)
    assert waits_for(lambda: pod.log_path.exists() and "hello" in pod.log_path.read_text())

    shown = api.get(f"/pods/{number}").json()

    assert (shown["status"], shown["env"], shown["cost"]) == ("RUNNING", {"A": "b"}, 0.44)
    assert marked_processes(f"{MARK}={pod.mark}")
    assert api.delete(f"/pods/{number}").status_code == 204
    assert marked_processes(f"{MARK}={pod.mark}") == []
    assert api.get(f"/pods/{number}").status_code == 404
    spent = cloud.cost()
    time.sleep(0.1)
    assert cloud.cost() == spent > 0
    assert cloud.rejected == []


def test_a_container_that_ends_is_started_again_on_an_empty_disk(cloud, api):
    number = api.post("/pods", json=ORDER | {"args": "bash -c 'ls $HOME; touch $HOME/left'"}).json()["id"]

    assert waits_for(lambda: cloud.instance(number).starts > 1)
    assert "left" not in cloud.instance(number).log_path.read_text()


def test_or_is_left_as_exited_and_costs_nothing(cloud, api):
    cloud.faults.exit_restarts = False
    number = api.post("/pods", json=ORDER | {"args": "true"}).json()["id"]

    assert waits_for(lambda: cloud.instance(number).status == "EXITED")
    assert (api.get(f"/pods/{number}").json()["cost"], cloud.instance(number).exit_code) == (0.0, 0)


def test_gpus_are_taken_off_the_shelf_and_put_back(cloud, api):
    order = ORDER | {"dataCenterIds": ["US-TX-3"]}
    number = api.post("/pods", json=order).json()["id"]

    refused = api.post("/pods", json=order)

    assert (refused.status_code, refused.json()["status"]) == (400, 400)
    api.delete(f"/pods/{number}")
    assert api.post("/pods", json=order).status_code == 201
    assert cloud.rejected == []


@pytest.mark.parametrize(
    "query",
    [
        "include=AVAILABILITY",
        "product=POD",
        "count=1",
        "include=AVAILABILITY&product=POD&cudaVersions=12.8&minCudaVersion=12",
    ],
)
def test_the_catalog_refuses_what_does_not_go_together(api, query):
    assert api.get(f"/catalog/gpus?{query}").status_code == 400


def test_the_catalog_compares_versions_as_numbers(cloud, api):
    cloud.shelves[0].cuda = ("12.11",)
    rows = api.get("/catalog/gpus?include=AVAILABILITY&product=POD&minCudaVersion=12.9").json()["gpus"]

    assert [place["id"] for row in rows for place in row.get("dataCenters", ())] == ["EU-RO-1"]
    assert cloud.rejected == []


@pytest.mark.parametrize("may", [True, False])
def test_a_pods_own_key_is_good_for_runpodctl_and_whether_for_more_is_a_switch(cloud, api, may):
    cloud.faults.pod_key_may_use_v2 = may
    number = api.post("/pods", json=ORDER).json()["id"]
    other = api.post("/pods", json=ORDER).json()["id"]
    key = {"Authorization": f"Bearer {cloud.instance(number).api_key}"}

    assert api.get("/pods", headers=key).status_code == 403
    assert api.delete(f"/pods/{other}", headers=key).status_code == 403
    assert api.delete(f"/pods/{number}", headers=key).status_code == (204 if may else 403)


def test_a_key_that_nobody_knows_is_refused(cloud, api):
    assert api.get("/pods", headers={"Authorization": "Bearer other"}).status_code == 401
    assert cloud.rejected == []


def test_a_log_is_a_stream_of_events_that_goes_on(cloud, api):
    number = api.post("/pods", json=ORDER | {"args": "bash -c 'echo one; sleep 1; echo two; sleep 60'"}).json()["id"]
    lines = []

    with api.stream("GET", f"/pods/{number}/logs", params={"source": "container"}, timeout=20) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        for line in stream.iter_lines():
            lines += [json.loads(line.removeprefix("data:"))["line"]] if line.startswith("data:") else []
            if "two" in lines:
                break

    assert lines == ["one", "two"]


def test_a_limit_says_how_long_to_wait(cloud, api):
    cloud.faults.next_status = [("list", 429)]

    said = api.get("/pods")

    assert (said.status_code, said.headers["Retry-After"]) == (429, "1")
    assert cloud.rejected == []


def test_nothing_is_left_of_a_cloud_that_was_closed(tmp_path):
    with RunpodEmulator(tmp_path, api_key="k") as cloud:
        cloud.default_market()
        httpx.post(f"{cloud.url}/v2/pods", json=ORDER, headers={"Authorization": "Bearer k"}, trust_env=False)
        (pod,) = cloud.instances
        assert waits_for(lambda: bool(pod.processes()))

    assert pod.processes() == []
