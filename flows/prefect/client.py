"""Our own commands as clients of the Prefect server of PREFECT_API_URL: errors say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectException, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.prefect.home import NoServer
from tasks.services.run import environment
from ups_models.errors import BadInput, UPSError
from ups_models.wording import first_line, without_password

PAGE = 200
ANSWER = httpx.Timeout(10.0, connect=2.0)
"""How long a server may take to answer before a run, in seconds; Prefect connects up to four times."""


def require_api_url() -> str:
    """PREFECT_API_URL. Raises BadInput where it is not set."""
    url = environment.get("PREFECT_API_URL")
    if not url:
        raise BadInput("PREFECT_API_URL is not set: start a server (`make server`) and name its address there")
    return url


def require_answer() -> None:
    """Raise NoServer, within seconds, where the server of PREFECT_API_URL does not answer a client that may use it."""
    url = without_password(environment.get("PREFECT_API_URL") or PREFECT_API_URL.value() or "")
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": ANSWER}) as client,
        ):
            client.read_flows(limit=1)
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        advice = "; put user:password into PREFECT_API_AUTH_STRING" if code == httpx.codes.UNAUTHORIZED else ""
        raise NoServer(f"{url}: the Prefect server answers {code}{advice}") from None
    except httpx.TransportError as error:
        raise NoServer(f"{url}: no Prefect server answers ({first_line(error)})") from None
    except (httpx.HTTPError, httpx.InvalidURL, PrefectException, ValueError) as error:
        raise NoServer(f"{url}: is no address of a Prefect server ({first_line(error)})") from None


def why_away() -> str:
    """Why the server of PREFECT_API_URL does not answer; empty where it does."""
    try:
        require_answer()
    except NoServer as fault:
        return str(fault)
    return ""


@contextmanager
def server_client() -> Iterator[SyncPrefectClient]:
    """A client of the server. Raises BadInput without address, answer or password, UPSError for what it refuses."""
    url = require_api_url()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise BadInput(f"{url}: wants a password; put user:password into PREFECT_API_AUTH_STRING") from None
        raise UPSError(f"{url}: refused ({error.response.text[:200]}); see the server's log") from error
    except httpx.TransportError as error:
        raise BadInput(f"{url}: does not answer ({type(error).__name__}); start it with `make server`") from None


def deployments_of(client: SyncPrefectClient, *flows: str) -> list[DeploymentResponse]:
    """All deployments of these flows, under whatever names."""
    found: list[DeploymentResponse] = []
    chosen = FlowFilter.model_validate({"name": {"any_": flows}})
    while page := client.read_deployments(flow_filter=chosen, limit=PAGE, offset=len(found)):
        found += page
    return found


def find_automation(client: SyncPrefectClient, name: str) -> dict[str, Any] | None:
    """The automation of this name, if there is one."""
    answer = client.request("POST", "/automations/filter", json={"automations": {"name": {"any_": [name]}}})
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found[0] if found else None
