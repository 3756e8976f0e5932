"""Data files from the network, from a server on loopback: whole, resumed, and what they must be."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.services.data.datasets import load_data
from tasks.services.data.download import Unreachable, fetch
from tasks.services.run.paths import RunDir
from ups_models.config.schema import DownloadConfig, TrackingConfig
from ups_models.errors import DataError

CONTENT = bytes(range(256)) * 4096
UNASKED = TrackingConfig()  # W&B is asked for its own artifacts alone


class FileServer(ThreadingHTTPServer):
    """One file, and what was asked of it."""

    content, ranges, break_after = CONTENT, True, 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    """Serves one file, in parts if asked; breaks off after `server.break_after` bytes, once."""

    server: FileServer

    def do_GET(self):
        if "missing" in self.path:
            return self.send_error(404)
        begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        self.server.asked.append(begin)
        content = self.server.content
        if begin >= len(content):
            return self.send_error(416)
        self.send_response(206 if begin and self.server.ranges else 200)
        rest = content[begin if self.server.ranges else 0 :]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.break_after:
            rest, self.server.break_after = rest[: self.server.break_after], 0
        self.wfile.write(rest)
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with FileServer() as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def wanted(server, name="data.hdf5", content=CONTENT):
    address = f"http://127.0.0.1:{server.server_address[1]}/files/{name}"
    return DownloadConfig(url=address, sha256=hashlib.sha256(content).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch(wanted(server), tmp_path, UNASKED)
    fetch(wanted(server), tmp_path, UNASKED)

    assert path.read_bytes() == CONTENT
    assert server.asked == [0]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_was_if_the_server_can(server, tmp_path, ranges):
    server.break_after, server.ranges = 300_000, ranges

    path = fetch(wanted(server), tmp_path, UNASKED, retry_after_s=(0,))

    assert path.read_bytes() == CONTENT
    assert server.asked == [0, 300_000]
    assert [item.name for item in tmp_path.iterdir()] == ["data.hdf5"]


def test_what_an_earlier_process_fetched_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.hdf5.part").write_bytes(CONTENT)

    assert fetch(wanted(server), tmp_path, UNASKED).read_bytes() == CONTENT
    assert server.asked == [len(CONTENT)]


def test_a_file_that_is_not_the_one_named_is_not_used(server, tmp_path):
    with pytest.raises(DataError, match=r"has sha256 .* but the config names"):
        fetch(wanted(server, content=b"another"), tmp_path, UNASKED)

    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_wrong_is_said_at_once(server, tmp_path):
    with pytest.raises(DataError, match=r"cannot be fetched .*404"):
        fetch(wanted(server, name="missing.hdf5"), tmp_path, UNASKED)


def test_a_network_that_does_not_answer_is_no_fault_of_the_config(tmp_path):
    nowhere = DownloadConfig(url="http://127.0.0.1:9/data.hdf5", sha256="0" * 64)

    with pytest.raises(Unreachable, match="cannot be fetched now") as error:
        fetch(nowhere, tmp_path, UNASKED, retry_after_s=(0,))

    assert error.value.exit_code == 1


def test_a_run_trains_on_what_it_fetched(server, tmp_path, smoke, finished_run):
    [source] = (finished_run / "data").glob("1D_*")
    server.content = source.read_bytes()
    download = wanted(server, name=source.name, content=server.content)
    cfg = smoke.model_copy(update={"data": smoke.data.model_copy(update={"downloads": (download,)})})

    data = load_data(cfg, RunDir.of(tmp_path, cfg.checkpoint.dir))

    assert len(data.u) == 24
    assert (tmp_path / "data" / source.name).is_file()


@pytest.mark.parametrize(
    "address",
    [
        "wandb-artifact://entity/project/name/data.hdf5",
        "wandb-artifact://project/name:v0/data.hdf5",
        "wandb-artifact://entity/project/name:v0/folder/data.hdf5",
        "file:///etc/passwd",
        "http://host/",
    ],
)
def test_an_address_that_names_no_file_is_refused(address):
    with pytest.raises(ValueError, match="url"):
        DownloadConfig(url=address, sha256="0" * 64)
