"""Prefect's UI is told of a run by a real client: a server that does not answer holds up nothing."""

import socket
from pathlib import Path
from uuid import uuid4

from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect.artifacts import Artifact, ArtifactSender


def test_a_server_that_takes_the_connection_and_does_not_answer_holds_up_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{silent.getsockname()[1]}/api"}):
            sender = ArtifactSender(uuid4(), Path("run"), close_within_s=0.5)
        sender.put("one", Artifact("markdown", "text", "description"))
        connection, _ = silent.accept()
        for key in ("two", "one", "two"):
            sender.put(key, Artifact("markdown", "text", "description"))
        sender.close()

        assert sender.busy  # it still waits for the answer
        connection.close()

    sender.thread.join(60)
    assert not sender.thread.is_alive()  # nothing is begun once it is closed
