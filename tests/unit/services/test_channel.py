"""What the owner of a run and the ranks that train for it send each other."""

from pathlib import Path

import pytest

from tasks.services.run.own_files import own_code_of
from tasks.services.run.paths import RunDir
from tasks.services.stages.channel import DONE, STEPPED, Channel
from ups_models.config.schema import PipelineConfig

NET = """
from ups_models import OneStep
from beside import factor

class Step(OneStep):
    def step(self, u, parameters):
        return factor * u
"""


@pytest.fixture
def channel(tmp_path):
    folder = tmp_path / "channel"
    folder.mkdir()
    return Channel(folder)


@pytest.fixture
def cfg(tmp_path):
    """A config with a network of the user's."""
    (tmp_path / "nets.py").write_text(NET, "utf-8")
    (tmp_path / "beside.py").write_text("factor = 2", "utf-8")
    network = f"{tmp_path / 'nets.py'}:Step"
    return PipelineConfig.model_validate({"operator": {"network": network}, "latent": {"dim": 8}})


def test_a_rank_gets_the_job_and_the_code_that_only_its_owner_has(channel, cfg, tmp_path):
    known = {one.identity for one in own_code_of(cfg)}

    channel.put_job("operator", cfg, RunDir.of(tmp_path, Path("checkpoints")), threads=3)
    for path in tmp_path.glob("*.py"):
        path.unlink()

    stage, there, run, threads = channel.job()
    assert {one.identity for one in own_code_of(there)} == known
    assert (stage, threads, run.checkpoints) == ("operator", 3, tmp_path / "checkpoints")
    assert there.latent == cfg.latent


def test_events_are_received_once_and_half_a_line_is_none(channel):
    listener = channel.listen(0)
    assert listener.received() == []
    channel.send(0, STEPPED, progress={"step": 1})
    with listener.path.open("a", encoding="utf-8") as file:
        file.write('{"event": "do')
    assert [event["event"] for event in listener.received()] == [STEPPED]
    assert listener.received() == []

    with listener.path.open("a", encoding="utf-8") as file:
        file.write('ne"}\n')

    assert [event["event"] for event in listener.received()] == [DONE]


def test_a_wish_to_stop_is_seen(channel):
    assert not channel.is_asked_to_stop()

    channel.ask_to_stop()

    assert channel.is_asked_to_stop()
