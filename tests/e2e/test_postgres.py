"""The control room on PostgreSQL instead of SQLite: a server for a team. Skipped, with the reason, where none is."""

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.chaos.prefect_stack import prefect_stack
from harness.ports import free_port

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def unprivileged():
    """PostgreSQL refuses to run as root: its own user, then."""
    if os.geteuid() != 0:
        return getpass.getuser()
    return next((name for name in ("postgres", "nobody") if any(one.pw_name == name for one in pwd.getpwall())), "root")


@pytest.fixture
def postgres():
    """The address of a database of our own, gone with the test."""
    if not INSTALLED:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql; `apt-get install postgresql` installs one")
    user, tools = unprivileged(), INSTALLED[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    shutil.chown(folder, user)
    port = free_port()

    def run(tool, *arguments):
        as_user = {"user": user} if os.geteuid() == 0 else {}
        command = [str(tools / tool), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120, **as_user)

    try:
        run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "prefect", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
        finally:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_deployments_automations_and_runs_work_on_postgresql(postgres, tmp_path):
    home, root = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    with prefect_stack(home, {"PREFECT_API_DATABASE_CONNECTION_URL": postgres}) as room:
        deployed = room.deploy("--retry-after", "1")
        room.start_worker()
        room.run({"config": "configs/smoke.yaml", "run_dir": str(root), "stage": "operator"})
        room.wait_for(lambda: room.states(root) == [("Completed", 1)])

    assert deployed.returncode == 0, deployed.stderr
    assert (root / "checkpoints" / "operator_ema.pt").is_file()
    assert list(home.glob("*.db")) == []
