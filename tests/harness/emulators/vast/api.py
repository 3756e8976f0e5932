"""The endpoints of the emulated Vast.ai: a request in, the documented body out."""

import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.emulators.vast.cloud import ApiError, Result, VastCloud
from harness.emulators.vast.instances import Instance
from harness.emulators.vast.market import OFFER_TYPES, BadQuery, Offer, Row, matches, ordered, search

Body = dict[str, Any]

PAGE = 25
MAX_ONSTART = 4000  # characters, with args; the documents disagree (4048, 4096, 16 KB)
MAX_ENV_VALUE, MAX_ENV = 256, 32768
MAX_COMMAND = 512
COMMANDS = {"ls", "rm", "du"}
SSH_LINES = ("INFO: starting /.launch", "Server listening on 0.0.0.0 port 22.")
PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.-]*\Z")


@dataclass
class Call:
    """A request after its address and key were understood."""

    numbers: list[int]
    body: Body
    query: Body
    container: Instance | None = None  # the instance whose own key it carries
    drop_reply: bool = False
    broken_reply: str = ""
    after_reply: list[Callable[[], None]] = field(default_factory=list)


# ---------------------------------------------------------------------- search and create


def search_offers(cloud: VastCloud, call: Call) -> Body:
    """POST /bundles/."""
    query = call.body.get("q", call.body)
    kind = query.get("type", "on-demand")
    if kind not in OFFER_TYPES:
        raise ApiError(400, "invalid_args", f"unknown type {kind!r}")
    only = kind != "bid"  # a bid does not keep others from renting on demand
    rows = [offer.row(rented=bool(cloud.tenants(offer, on_demand_only=only))) for offer in cloud.offers.values()]
    try:
        return {"success": True, "offers": search(rows, query)}
    except BadQuery as error:
        raise ApiError(400, "invalid_args", str(error)) from error


def no_such_ask(ask_id: int, *, cancel_unavail: bool) -> ApiError:
    """The refusal for an offer that is gone; its code depends on cancel_unavail."""
    if cancel_unavail:
        return ApiError(410, "no_such_ask", f"Instance type by id {ask_id} is not available.", ask_id=ask_id)
    text = f"error 404/3603: no_such_ask Instance type by id {ask_id} is not available."
    return ApiError(404, "invalid_args", text, ask_id=ask_id)


def require(*, fits: bool, error: str = "invalid_args", msg: str) -> None:
    """Refuse arguments that the service refuses."""
    if not fits:
        raise ApiError(400, error, msg)


def check_contract(offer: Offer, body: Body) -> None:
    """The limits on what an instance may be made of."""
    env, price = body.get("env") or {}, body.get("price")
    text = (body.get("onstart") or "") + " ".join(body.get("args") or [])
    disk = body.get("disk")
    require(fits=bool(body.get("image") or body.get("template_hash_id")), msg="image is missing")
    require(fits=isinstance(env, dict), msg="env must be an object")
    require(fits=len(text) <= MAX_ONSTART, msg=f"onstart and args have {len(text)} characters, over {MAX_ONSTART}")
    for name, value in env.items():
        require(fits="\0" not in f"{name}{value}", msg=f"env {name!r} holds a null character")
        require(fits=len(str(value)) <= MAX_ENV_VALUE, msg=f"env {name} is longer than {MAX_ENV_VALUE}")
    require(fits=sum(len(f"{it}{env[it]}") for it in env) <= MAX_ENV, msg=f"env is longer than {MAX_ENV}")
    require(fits=len(body.get("label") or "") <= 256, msg="label is longer than 256")
    require(fits=isinstance(disk, int | float) and disk >= 8, msg="disk must be at least 8 GB")
    require(
        fits=float(disk or 0) <= offer.disk_space, msg=f"disk {disk} is over the {offer.disk_space} GB of the offer"
    )
    check_price(price)


def check_price(price: Any) -> None:
    """The limits on a bid; None is no bid."""
    fits = price is None or (isinstance(price, int | float) and 0.001 <= price <= 128)
    require(fits=fits, error="invalid_price", msg=f"price {price!r} is not allowed")


def create(cloud: VastCloud, call: Call) -> Body:
    """PUT /asks/{id}/."""
    (ask_id,) = call.numbers
    offer = rentable_offer(cloud, ask_id, call.body)
    check_contract(offer, call.body)
    if cloud.faults.take("no_credit") or cloud.credit() <= 0:
        text = "Your account lacks credit; see the billing page."
        raise ApiError(cloud.faults.no_credit_status, cloud.faults.no_credit_error_code, text, ask_id=ask_id)
    price = call.body.get("price")
    if price is not None and (cloud.faults.take("low_bid") or price < offer.min_bid):
        raise low_bid(cloud, offer, call.body)
    one = cloud.create(offer, price=price, **contract(call.body))
    call.drop_reply = cloud.faults.take("lose_reply_to_create")
    call.broken_reply, cloud.faults.break_reply_to_create = cloud.faults.break_reply_to_create, ""
    return {"success": True, "new_contract": one.id, "instance_api_key": one.api_key}


def rentable_offer(cloud: VastCloud, ask_id: int, body: Body) -> Offer:
    """The offer, unless it is gone or held by somebody whom this contract cannot displace."""
    if cloud.faults.take("offer_gone"):
        cloud.remove_offer(ask_id)
    offer = cloud.offers.get(ask_id)
    taken = offer is not None and cloud.tenants(offer, on_demand_only=body.get("price") is None)
    if offer is None or not offer.rentable or (taken and not cloud.faults.second_create_makes_second_instance):
        raise no_such_ask(ask_id, cancel_unavail=bool(body.get("cancel_unavail")))
    return offer


def contract(body: Body) -> dict[str, Any]:
    """The settings of an instance in the body of a create."""
    env = {name: str(value) for name, value in (body.get("env") or {}).items()}
    plain = {name: body.get(name) for name in ("label", "image", "onstart", "args")}
    return {**plain, "env": env, "disk": float(body["disk"]), "runtype": body.get("runtype") or "ssh"}


def low_bid(cloud: VastCloud, offer: Offer, body: Body) -> ApiError:
    """The refusal of a bid below the market, which may leave a stopped instance behind."""
    if body.get("cancel_unavail") and not cloud.faults.low_bid_ignores_cancel_unavail:
        return no_such_ask(offer.id, cancel_unavail=True)
    offer.min_bid = max(offer.min_bid, round(body["price"] * 1.05 + 0.005, 3))
    one = cloud.create(offer, price=body["price"], **contract(body))
    cloud.auction(offer)
    text = f"bid {body['price']} is below the minimum {offer.min_bid}; the instance is stopped"
    return ApiError(cloud.faults.low_bid_status, "bid_too_low", text, ask_id=offer.id, new_contract=one.id)


def create_many(cloud: VastCloud, call: Call) -> Body:
    """POST /asks/bulk/."""
    made = [create(cloud, Call([ask_id], call.body, {})) for ask_id in call.body.get("ids", [])]
    return {"success": True, "results": made, "new_contracts": [one["new_contract"] for one in made]}


# ---------------------------------------------------------------------- instances


def mine(cloud: VastCloud, number: int) -> Instance:
    """The instance that lives under this number."""
    for one in cloud.live():
        if one.id == number:
            return one
    raise ApiError(404, "no_such_instance", f"Instance {number} not found.")


def rows_of(cloud: VastCloud, instances: list[Instance]) -> list[Row]:
    """Rows as the service shows them."""
    now = cloud.clock()
    rows = [one.row(now, cloud.faults, cloud.account_env) for one in instances]
    if rows and cloud.faults.take("null_start_date"):
        rows[0]["start_date"] = None
    if rows and cloud.faults.next_rows:
        rows[0] |= cloud.faults.next_rows.pop(0)
    return rows


def show(cloud: VastCloud, call: Call) -> Body:
    """GET /instances/{id}/: null for one that is gone."""
    if cloud.faults.take("show_500_times"):
        raise ApiError(500, "internal_error", "Internal server error")
    rows = rows_of(cloud, [one for one in cloud.live() if one.id == call.numbers[0]])
    return {"instances": rows[0] if rows else None}


def list_v1(cloud: VastCloud, call: Call) -> Body:
    """GET /api/v1/instances/: pages of 25."""
    if cloud.faults.take("list_empty"):
        return {"success": True, "instances": [], "total_instances": 0, "next_token": None}
    filters = call.query.get("select_filters") or {}
    order = [[it["col"], it["dir"]] for it in call.query.get("order_by") or [{"col": "id", "dir": "asc"}]]
    try:
        rows = [row for row in rows_of(cloud, cloud.live()) if matches(row, filters)]
        rows = ordered(rows, order)
    except BadQuery as error:
        raise ApiError(400, "invalid_args", str(error)) from error
    start, size = int(call.query.get("after_token") or 0), min(PAGE, int(call.query.get("limit") or PAGE))
    token = str(start + size) if start + size < len(rows) else None
    page = rows[start : start + size]
    return {"success": True, "instances": page, "total_instances": len(rows), "next_token": token}


def list_v0(_cloud: VastCloud, _call: Call) -> Body:
    """GET /api/v0/instances/: gone."""
    raise ApiError(410, "deprecated_endpoint", "This endpoint is deprecated; use /api/v1/instances/.")


def manage(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/{id}/: state, label."""
    one = mine(cloud, call.numbers[0])
    if (label := call.body.get("label")) is not None:
        require(fits=len(label) <= 1024, msg="label is longer than 1024")
        one.label = label
    state = call.body.get("state")
    require(fits=state in {None, "running", "stopped"}, msg=f"unknown state {state!r}")
    if state == "running":
        cloud.start_instance(one)
    elif state == "stopped":
        end_of_container(cloud, call, lambda: cloud.stop_instance(one))
    return {"success": True}


def destroy(cloud: VastCloud, call: Call) -> Body:
    """DELETE /instances/{id}/."""
    one = mine(cloud, call.numbers[0])
    if cloud.faults.take("destroy_fails_times"):
        raise ApiError(500, "internal_error", "Internal server error")
    if call.container is one:
        cloud.destroy(one, kill=False)
        end_of_container(cloud, call, lambda: None if one.offline else one.kill())
    else:
        cloud.destroy(one)
    return {"success": True, "msg": f"destroying instance {one.id}."}


def end_of_container(cloud: VastCloud, call: Call, action: Callable[[], None]) -> None:
    """Let a container that ends itself hear the answer first."""
    if call.container is None:
        action()
        return

    def later() -> None:
        with cloud.lock:
            action()

    call.after_reply.append(later)


def manage_many(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/: the same for several."""
    for number in call.body.get("ids", []):
        manage(cloud, Call([number], call.body, {}))
    return {"success": True}


def destroy_many(cloud: VastCloud, call: Call) -> Body:
    """DELETE /instances/: the same for several."""
    for number in call.body.get("instance_ids", []):
        destroy(cloud, Call([number], {}, {}))
    return {"success": True}


def reboot(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/reboot/{id}/: the same container, started again."""
    one = mine(cloud, call.numbers[0])
    require(fits=not one.halted, msg=f"instance {one.id} is not running")
    cloud.restart(one, state="rebooting")
    return {"success": True}


def recycle(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/recycle/{id}/: a fresh container, without losing the place."""
    one = mine(cloud, call.numbers[0])
    require(fits=not one.halted, msg=f"instance {one.id} is not running")
    cloud.restart(one)
    one.wipe()
    return {"success": True}


def change_bid(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/bid_price/{id}/: no price means one that wins."""
    one = mine(cloud, call.numbers[0])
    require(fits=one.is_bid, msg=f"instance {one.id} is on demand")
    price = call.body.get("price")
    check_price(price)
    cloud.change_bid(one, one.offer.min_bid if price is None else price)
    return {"success": True}


# ---------------------------------------------------------------------- logs and commands


def publish(cloud: VastCloud, text: str) -> Body:
    """A result_url whose text comes a little later."""
    name = secrets.token_hex(8)
    cloud.results[name] = Result(text, time.monotonic() + cloud.faults.result_delay_s)
    return {"success": True, "result_url": f"{cloud.url}/results/{name}"}


def request_logs(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/request_logs/{id}/."""
    one = mine(cloud, call.numbers[0])
    if call.body.get("daemon_logs"):
        return publish(cloud, f"daemon: {one.status_msg}\n")
    lines = one.log_path.read_text(errors="replace").splitlines() if one.log_path.exists() else []
    lines = lines if cloud.faults.logs_show_onstart else [*SSH_LINES]
    wanted = [line for line in lines if (call.body.get("filter") or "") in line]
    tail = int(call.body.get("tail") or 1000)
    return publish(cloud, "".join(f"{line}\n" for line in wanted[-tail:]))


def inside(one: Instance, given: str) -> str:
    """A path of the container as one of ours; whatever leaves its folder is refused."""
    within = one.folder / given.lstrip("/") if given.startswith("/") else one.home / given
    path = within.resolve()
    require(fits=path.is_relative_to(one.folder.resolve()), msg=f"{given}: outside the container")
    return str(path)


def command(cloud: VastCloud, call: Call) -> Body:
    """PUT /instances/command/{id}/: ls, rm and du only."""
    one = mine(cloud, call.numbers[0])
    text = call.body.get("command") or ""
    require(fits=len(text) <= MAX_COMMAND, msg=f"command is longer than {MAX_COMMAND}")
    try:
        name, *rest = shlex.split(text) or [""]
    except ValueError as error:
        raise ApiError(400, "invalid_args", str(error)) from error
    require(fits=name in COMMANDS, msg=f"only {', '.join(sorted(COMMANDS))} may be run")
    paths = [it if it.startswith("-") else inside(one, it) for it in rest]
    require(fits=name != "rm" or str(one.folder.resolve()) not in paths, msg="rm of / is refused")
    done = subprocess.run(
        [name, *paths], cwd=one.home, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False, timeout=10
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    return publish(cloud, said.replace(str(one.folder.resolve()), ""))


# ---------------------------------------------------------------------- the account


def show_user(cloud: VastCloud, _call: Call) -> Body:
    """GET /users/current."""
    person = {"id": 1, "username": "emulated", "email": "emulated@example.invalid", "ssh_key": ""}
    return person | {"credit": cloud.credit(), "balance": 0.0, "api_key": cloud.api_key, "can_pay": True}


def show_secrets(cloud: VastCloud, _call: Call) -> Body:
    """GET /secrets/."""
    masked = cloud.faults.mask_secrets
    return {"success": True, "secrets": {it: "****" if masked else value for it, value in cloud.account_env.items()}}


def named_secret(call: Call) -> tuple[str, str]:
    """Name and value in the body, within the documented limits."""
    name, value = str(call.body.get("key") or ""), str(call.body.get("value") or "")
    require(fits=bool(name), msg="key is missing")
    require(fits=bool(PLAIN_VALUE.match(value)), msg="only letters, digits, _, . and - are allowed")
    return name, value


def create_secret(cloud: VastCloud, call: Call) -> Body:
    """POST /secrets/."""
    name, value = named_secret(call)
    require(fits=name not in cloud.account_env, msg=f"{name} exists")
    cloud.account_env[name] = value
    return {"success": True, "msg": f"{name} created"}


def update_secret(cloud: VastCloud, call: Call) -> Body:
    """PUT /secrets/."""
    name, value = named_secret(call)
    if name not in cloud.account_env:
        raise ApiError(404, "not_found", f"{name} does not exist")
    cloud.account_env[name] = value
    return {"success": True, "msg": f"{name} updated"}


def delete_secret(cloud: VastCloud, call: Call) -> Body:
    """DELETE /secrets/."""
    name = str(call.body.get("key"))
    if cloud.account_env.pop(name, None) is None:
        raise ApiError(404, "not_found", f"{name} does not exist")
    return {"success": True, "msg": f"{name} deleted"}


def checked_key(call: Call) -> str:
    """A public key in the body."""
    key = str(call.body.get("ssh_key") or "")
    require(fits=key.startswith(("ssh-", "ecdsa-")), msg="ssh_key is not a public key")
    return key


def add_key(cloud: VastCloud, call: Call) -> Body:
    """POST /ssh/."""
    number = cloud.new_id()
    cloud.ssh_keys[number] = checked_key(call)
    return {"success": True, "key": {"id": number, "public_key": cloud.ssh_keys[number]}}


def show_keys(cloud: VastCloud, _call: Call) -> Body:
    """GET /ssh/."""
    return {"success": True, "ssh_keys": [{"id": it, "public_key": key} for it, key in cloud.ssh_keys.items()]}


def delete_key(cloud: VastCloud, call: Call) -> Body:
    """DELETE /ssh/{id}/."""
    if cloud.ssh_keys.pop(call.numbers[0], None) is None:
        raise ApiError(404, "not_found", f"ssh key {call.numbers[0]} does not exist")
    return {"success": True}


def attach_key(cloud: VastCloud, call: Call) -> Body:
    """POST /instances/{id}/ssh/."""
    one = mine(cloud, call.numbers[0])
    one.ssh_keys[number := cloud.new_id()] = checked_key(call)
    return {"success": True, "msg": "SSH key added to instance.", "key": {"id": number}}


def detach_key(cloud: VastCloud, call: Call) -> Body:
    """DELETE /instances/{id}/ssh/{key}/."""
    one = mine(cloud, call.numbers[0])
    if one.ssh_keys.pop(call.numbers[1], None) is None:
        raise ApiError(404, "not_found", f"ssh key {call.numbers[1]} is not attached")
    return {"success": True}


# ---------------------------------------------------------------------- addresses


@dataclass(frozen=True)
class Route:
    """One endpoint: its name in `faults.next_status`, and the documented interval between two calls of it."""

    method: str
    path: str  # <n> stands for a number
    endpoint: str
    function: Callable[[VastCloud, Call], Body]
    interval_s: float = 0.0
    container_key: bool = False  # the instance's own key may do it to the instance itself

    def match(self, method: str, path: str) -> list[int] | None:
        """The numbers in the path, or None when it is another endpoint."""
        pattern = self.path.rstrip("/").replace("<n>", r"(\d+)") + "/?"
        found = re.fullmatch(pattern, path) if method == self.method else None
        return None if found is None else [int(number) for number in found.groups()]


V0 = "/api/v0"
ROUTES = [
    Route("POST", f"{V0}/bundles/", "search", search_offers),
    Route("PUT", f"{V0}/search/asks/", "search", search_offers),
    Route("POST", f"{V0}/asks/bulk/", "create", create_many, 4.5),
    Route("PUT", f"{V0}/asks/<n>/", "create", create, 4.5),
    Route("GET", "/api/v1/instances/", "list", list_v1, 1.0),
    Route("GET", f"{V0}/instances/", "list_v0", list_v0),
    Route("PUT", f"{V0}/instances/", "manage", manage_many, 1.0),
    Route("DELETE", f"{V0}/instances/", "destroy", destroy_many, 3.0),
    Route("GET", f"{V0}/instances/<n>/", "show", show, 2.0, container_key=True),
    Route("PUT", f"{V0}/instances/<n>/", "manage", manage, 1.0, container_key=True),
    Route("DELETE", f"{V0}/instances/<n>/", "destroy", destroy, 3.0, container_key=True),
    Route("PUT", f"{V0}/instances/reboot/<n>/", "reboot", reboot, 1.0),
    Route("PUT", f"{V0}/instances/recycle/<n>/", "recycle", recycle, 1.0),
    Route("PUT", f"{V0}/instances/bid_price/<n>/", "change_bid", change_bid, 5.5),
    Route("PUT", f"{V0}/instances/request_logs/<n>/", "logs", request_logs, 1.0),
    Route("PUT", f"{V0}/instances/command/<n>/", "execute", command, 1.5),
    Route("POST", f"{V0}/instances/<n>/ssh/", "ssh", attach_key),
    Route("DELETE", f"{V0}/instances/<n>/ssh/<n>/", "ssh", detach_key),
    Route("GET", f"{V0}/ssh/", "ssh", show_keys),
    Route("POST", f"{V0}/ssh/", "ssh", add_key),
    Route("DELETE", f"{V0}/ssh/<n>/", "ssh", delete_key),
    Route("GET", f"{V0}/secrets/", "secrets", show_secrets, 3.0),
    Route("POST", f"{V0}/secrets/", "secrets", create_secret, 3.0),
    Route("PUT", f"{V0}/secrets/", "secrets", update_secret, 3.0),
    Route("DELETE", f"{V0}/secrets/", "secrets", delete_secret, 3.0),
    Route("GET", f"{V0}/users/current", "user", show_user),
]


def find_route(method: str, path: str) -> tuple[Route, list[int]] | None:
    """The endpoint of an address."""
    for route in ROUTES:
        if (numbers := route.match(method, path)) is not None:
            return route, numbers
    return None
