"""Our own commands as clients of the Prefect server of PREFECT_API_URL: errors say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError

from tasks.services.run import environment
from ups_models.errors import BadInput, UPSError


def require_api_url() -> str:
    """PREFECT_API_URL. Raises BadInput where it is not set."""
    url = environment.get("PREFECT_API_URL")
    if not url:
        raise BadInput("PREFECT_API_URL is not set: start a server (`make server`) and name its address there")
    return url


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


def find_automation(client: SyncPrefectClient, name: str) -> dict[str, Any] | None:
    """The automation of this name, if there is one."""
    answer = client.request("POST", "/automations/filter", json={"automations": {"name": {"any_": [name]}}})
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found[0] if found else None
