"""Data files from the network: whole, resumed, and what they must be."""

import hashlib
import json

import httpx
import pytest

from tasks.services.data.datasets import load_data
from tasks.services.data.download import Unreachable, fetch
from tasks.services.run.paths import RunDir
from ups_models.config.data import DownloadConfig
from ups_models.config.schema import TrackingConfig
from ups_models.errors import DataError, StorageError

CONTENT = bytes(range(256)) * 4096
UNASKED = TrackingConfig()  # W&B is asked for its own artifacts alone


class FileServer:
    """One file, in parts if asked, and what was asked of it; breaks off after `break_after` bytes, once."""

    content, ranges, break_after = CONTENT, True, 0

    def __init__(self):
        self.asked = []

    def __call__(self, request):
        if "missing" in request.url.path:
            return httpx.Response(404)
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.asked.append(begin)
        if begin >= len(self.content):
            return httpx.Response(416)
        rest = self.content[begin if self.ranges else 0 :]
        length = {"Content-Length": str(len(rest))}
        return httpx.Response(206 if begin and self.ranges else 200, headers=length, content=self._sent(rest))

    def _sent(self, rest):
        end, self.break_after = self.break_after, 0
        yield rest[: end or None]
        if end:
            raise httpx.RemoteProtocolError("the peer closed the connection")


@pytest.fixture
def server(monkeypatch):
    """What httpx asks, without a network."""
    files = FileServer()
    client = httpx.Client(transport=httpx.MockTransport(files))
    monkeypatch.setattr(httpx, "stream", client.stream)
    return files


def wanted(name="data.hdf5", content=CONTENT):
    return DownloadConfig(url=f"http://files.test/files/{name}", sha256=hashlib.sha256(content).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch(wanted(), tmp_path, UNASKED)
    fetch(wanted(), tmp_path, UNASKED)

    assert path.read_bytes() == CONTENT
    assert server.asked == [0]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_was_if_the_server_can(server, tmp_path, ranges):
    server.break_after, server.ranges = 300_000, ranges

    path = fetch(wanted(), tmp_path, UNASKED, retry_after_s=(0,))

    assert path.read_bytes() == CONTENT
    assert server.asked == [0, 300_000]
    assert [item.name for item in tmp_path.iterdir()] == ["data.hdf5"]


def test_what_an_earlier_process_fetched_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.hdf5.part").write_bytes(CONTENT)

    assert fetch(wanted(), tmp_path, UNASKED).read_bytes() == CONTENT
    assert server.asked == [len(CONTENT)]


def test_a_file_may_be_named_and_checked_as_its_publisher_does(server, tmp_path):
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    published = DownloadConfig(url="http://files.test/datafile/268190", file="burgers.hdf5", md5=md5)

    path = fetch(published, tmp_path, UNASKED)
    fetch(published, tmp_path, UNASKED)

    assert path == tmp_path / "burgers.hdf5"
    assert server.asked == [0]
    kept = json.loads((tmp_path / ".burgers.hdf5.digest.json").read_text("utf-8"))
    assert (kept["md5"], kept["sha256"]) == (md5, hashlib.sha256(CONTENT).hexdigest())


def test_a_file_that_is_not_what_its_publisher_names_is_fetched_again_or_not_used(server, tmp_path, caplog):
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    published = DownloadConfig(url="http://files.test/files/data.hdf5", md5=md5)
    (tmp_path / "data.hdf5").write_bytes(b"an older version of the file")

    assert fetch(published, tmp_path, UNASKED).read_bytes() == CONTENT
    assert f"but the config names {md5}: it is fetched again" in caplog.text
    with pytest.raises(DataError, match=rf"has md5 {md5}, but the config names {'0' * 32}; correct one of them"):
        fetch(published.model_copy(update={"md5": "0" * 32}), tmp_path, UNASKED)


def test_nothing_is_downloaded_through_a_link(server, tmp_path):
    other, folder = tmp_path / "other", tmp_path / "data"
    other.write_bytes(b"somebody's")
    folder.mkdir()
    (folder / "data.hdf5.part").symlink_to(other)

    with pytest.raises(DataError, match=r"data\.hdf5\.part: is a link, .*; remove it"):
        fetch(wanted(), folder, UNASKED)

    assert other.read_bytes() == b"somebody's"
    assert server.asked == []


def test_a_file_that_is_not_the_one_named_is_not_used(server, tmp_path):
    with pytest.raises(DataError, match=r"has sha256 .* but the config names"):
        fetch(wanted(content=b"another"), tmp_path, UNASKED)

    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_wrong_is_said_at_once(server, tmp_path):
    with pytest.raises(DataError, match=r"cannot be fetched .*404"):
        fetch(wanted(name="missing.hdf5"), tmp_path, UNASKED)


def test_a_network_that_does_not_answer_is_no_fault_of_the_config(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise httpx.ConnectError("nobody listens")

    monkeypatch.setattr(httpx, "stream", refuse)

    with pytest.raises(Unreachable, match=r"cannot be fetched now .*nobody listens") as error:
        fetch(wanted(), tmp_path, UNASKED, retry_after_s=(0,))

    assert error.value.exit_code == 1


def test_a_file_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "data.hdf5.part").mkdir()

    with pytest.raises(StorageError, match=r"data\.hdf5\.part: cannot be written .*; remove the folder in its place"):
        fetch(wanted(), tmp_path, UNASKED, retry_after_s=())


def test_a_run_trains_on_what_it_fetched(server, tmp_path, smoke, finished_run):
    [source] = (finished_run / "data").glob("1D_*")
    server.content = source.read_bytes()
    download = wanted(name=source.name, content=server.content)
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


@pytest.mark.parametrize("change", ["file", "config"])
def test_a_file_that_is_not_what_the_config_names_is_fetched_again(server, tmp_path, caplog, change):
    path = fetch(wanted(), tmp_path, UNASKED)
    if change == "file":
        path.write_bytes(b"another")
    else:
        server.content = b"newer"

    fetch(wanted(content=server.content), tmp_path, UNASKED)

    assert path.read_bytes() == server.content
    assert "it is fetched again" in caplog.text
