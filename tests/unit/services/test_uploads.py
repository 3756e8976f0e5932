"""Uploads beside training: one at a time, retried, recorded, and never in the way."""

import threading

from tasks.services.checkpoints.uploads import UploadFailed, Uploads
from tasks.services.run.status import read_status

WAIT_S = 20


class Publisher:
    """Takes sets as W&B would: fails so many times first, and holds on while `gate` is closed."""

    def __init__(self, failures=0):
        self.failures, self.taken, self.tries = failures, [], 0
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, folder, aliases):
        self.tries += 1
        self.begun.set()
        assert self.gate.wait(WAIT_S)
        if self.failures:
            self.failures -= 1
            raise UploadFailed("checkpoints were not uploaded to W&B (403)")
        self.taken.append((aliases, sorted(path.name for path in folder.glob("*.pt"))))
        return f"v{len(self.taken) - 1}"


def upload_of(run):
    upload = read_status(run.status).upload
    assert upload is not None
    return upload


def uploads_of(run, publisher, every_s=600.0, timeout_s=WAIT_S, retry_after_s=(0.01, 0.01)):
    return Uploads(run, publisher, every_s=every_s, timeout_s=timeout_s, retry_after_s=retry_after_s)


def test_a_set_is_uploaded_and_noted(run):
    publisher = Publisher()
    uploads = uploads_of(run, publisher)

    uploads.add("operator")

    assert uploads.drain(WAIT_S)
    assert publisher.taken[0][0] == ("operator",)
    assert len(publisher.taken[0][1]) == 8
    assert upload_of(run).version == "v0"
    assert list(run.staging.iterdir()) == []


def test_a_failed_upload_is_tried_again(run):
    publisher = Publisher(failures=2)
    uploads = uploads_of(run, publisher)

    uploads.add()

    assert uploads.drain(WAIT_S)
    upload = upload_of(run)
    assert (publisher.tries, upload.version, upload.error_message) == (3, "v0", None)


def test_an_upload_that_is_given_up_is_recorded_and_its_name_goes_to_the_next_set(run, caplog):
    publisher = Publisher(failures=3)
    uploads = uploads_of(run, publisher)
    uploads.add("operator")
    assert uploads.drain(WAIT_S)
    failed = upload_of(run)

    uploads.add("diff_residual")

    assert uploads.drain(WAIT_S)
    assert "not uploaded" in failed.error_message
    assert failed.version is None
    assert "safe on this machine" in caplog.text
    assert publisher.taken[0][0] == ("operator", "diff_residual")
    assert upload_of(run).error_message is None


def test_sets_that_wait_become_one_with_all_their_names(run):
    publisher = Publisher()
    publisher.gate.clear()
    uploads = uploads_of(run, publisher)
    uploads.add("operator")
    assert publisher.begun.wait(WAIT_S)

    uploads.add("diff_residual")
    uploads.add("consistency_distill")
    publisher.gate.set()

    assert uploads.drain(WAIT_S)
    assert [aliases for aliases, _ in publisher.taken] == [("operator",), ("diff_residual", "consistency_distill")]


def test_saving_uploads_when_the_interval_is_over_and_not_before(run):
    publisher = Publisher()
    rare, often = uploads_of(run, publisher), uploads_of(run, publisher, every_s=1e-9)

    rare.saved()
    assert rare.drain(WAIT_S)
    assert publisher.taken == []

    often.saved()
    assert often.drain(WAIT_S)
    assert len(publisher.taken) == 1


def test_adding_does_not_wait_for_an_upload(run):
    publisher = Publisher()
    publisher.gate.clear()
    uploads = uploads_of(run, publisher)

    for _ in range(3):
        uploads.add()

    assert not uploads.drain(0.01)
    publisher.gate.set()
    assert uploads.drain(WAIT_S)


def test_a_snapshot_that_cannot_be_taken_is_recorded_and_stops_nothing(run, caplog):
    publisher = Publisher()
    uploads = uploads_of(run, publisher)
    run.staging.write_bytes(b"a file where the folder should be")

    uploads.add()

    assert uploads.drain(WAIT_S)
    assert "no snapshot could be taken" in caplog.text
    assert upload_of(run).error_message


def test_a_newer_set_does_not_wait_until_an_older_one_is_tried_again(run):
    publisher = Publisher(failures=1)
    uploads = uploads_of(run, publisher, retry_after_s=(10 * WAIT_S,))
    uploads.add("operator")
    assert publisher.begun.wait(WAIT_S)

    uploads.add("diff_residual")

    assert uploads.drain(WAIT_S)
    assert [aliases for aliases, _ in publisher.taken] == [("operator", "diff_residual")]
    assert list(run.staging.iterdir()) == []


def test_what_is_not_finished_at_the_end_is_left_to_sync(run, caplog):
    publisher = Publisher()
    publisher.gate.clear()
    uploads = uploads_of(run, publisher, timeout_s=0.01)
    uploads.add("operator")

    assert uploads.finish(required=False) is None

    assert f"`ups sync {run.root} --config CONFIG` retries it" in caplog.text
    publisher.gate.set()
    uploads.thread.join(WAIT_S)
    assert not uploads.thread.is_alive()


def test_nothing_is_tried_again_once_it_is_closed(run):
    publisher = Publisher(failures=1)
    uploads = uploads_of(run, publisher, retry_after_s=(10 * WAIT_S,))
    uploads.add()
    assert publisher.begun.wait(WAIT_S)

    uploads.close()

    uploads.thread.join(WAIT_S)
    assert not uploads.thread.is_alive()
    assert publisher.tries == 1


def test_a_status_that_cannot_be_written_does_not_stop_the_upload(run, caplog):
    publisher = Publisher()
    uploads = uploads_of(run, publisher)
    publisher.gate.clear()
    uploads.add()
    assert publisher.begun.wait(WAIT_S)

    run.lock.unlink()
    publisher.gate.set()

    assert uploads.drain(WAIT_S)
    assert "the upload could not be recorded in the status" in caplog.text
    assert len(publisher.taken) == 1
