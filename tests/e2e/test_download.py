"""A data file from a real server on loopback: whole, and resumed where the connection broke."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.services.data.download import Unreachable, fetch
from ups_models.config.data import DownloadConfig
from ups_models.config.schema import TrackingConfig

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


def test_an_address_where_nobody_listens_is_no_fault_of_the_config(tmp_path):
    nowhere = DownloadConfig(url="http://127.0.0.1:9/data.hdf5", sha256="0" * 64)

    with pytest.raises(Unreachable, match="cannot be fetched now"):
        fetch(nowhere, tmp_path, UNASKED, retry_after_s=(0,))
