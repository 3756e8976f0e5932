"""The Prefect server that our commands ask, in this process."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from unit.flows.prefect_api import URL, PrefectApi

ASKING = ("client", "chain", "artifacts", "earlier", "wishes")
"""The modules of flows.prefect that make a client."""


@pytest.fixture
def prefect_api(monkeypatch: pytest.MonkeyPatch) -> PrefectApi:
    """The server that PREFECT_API_URL names while the test lasts."""
    api = PrefectApi()
    monkeypatch.setenv("PREFECT_API_URL", URL)

    def client_of(*, sync_client: bool, httpx_settings: dict[str, Any] | None = None) -> SyncPrefectClient:
        assert sync_client
        return SyncPrefectClient(URL, httpx_settings={"transport": httpx.MockTransport(api)})

    for module in ASKING:
        monkeypatch.setattr(f"flows.prefect.{module}.get_client", client_of)
    return api


@pytest.fixture
def own_run(prefect_api: PrefectApi, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the flow run that this process is."""
    identity = str(uuid4())
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", identity)
    return identity
