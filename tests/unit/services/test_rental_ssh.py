"""One's own machines as a provider, without any: names of hosts, what they say, and what silence comes to."""

import json

import pytest

from tasks.services.rental.provider import Hosted, MachineSpec, NoOffer, Offer, OfferGone, ProviderError, UnknownOutcome
from tasks.services.rental.providers.local import LocalProvider
from tasks.services.rental.providers.several import Several
from tasks.services.rental.providers.ssh.facts import Facts
from tasks.services.rental.providers.ssh.hosts import Host, named_hosts, parse_all
from tasks.services.rental.providers.ssh.provider import SshProvider
from tasks.services.rental.providers.ssh.shell import NoAnswer
from ups_models.errors import BadInput

CPU = MachineSpec(needs_gpu=False)
FACTS = "user me\ndisk_kb 90000000\nram_kb 24000000\npython /usr/bin/python3\n"
CARDS = "cuda 12.5\ngpu GPU-a, 81559, NVIDIA H100 80GB HBM3\ngpu GPU-b, 24576, NVIDIA L4\n"


class FakeShell:
    """Hosts that say what they are told to; `runs` are the lines of what runs there."""

    def __init__(self, **facts):
        self.facts, self.runs, self.off, self.asked = facts, {}, set(), []
        self.lost, self.broken = False, False

    def ask(self, host, verb, *, within_s=60.0, **values):
        self.asked.append((host.name, verb))
        runs = self.runs.setdefault(host.name, {})
        if host.name in self.off:
            raise NoAnswer(host, "does not answer")
        answers = {
            "probe": lambda: self.facts.get(host.name, FACTS),
            "rent": lambda: self.rent(host, runs, values),
            "show": lambda: runs.get(values["number"], ""),
            "list": lambda: "".join(runs.values()),
            "destroy": lambda: f"destroyed {runs.pop(values['number'], '')}",
            "log": lambda: "",
        }
        return answers[verb]()

    def rent(self, host, runs, values):
        if self.broken:
            raise ProviderError(f"{host.name}: cannot do what was asked (disk full)")
        number = str(len(self.asked))
        runs[number] = f"instance {number} living {values['usd']} {values['label']}\n"
        if self.lost:
            raise NoAnswer(host, "the connection ended")
        return f"rented {number}\n"


class Clock:
    """Seconds that pass by themselves never."""

    def __init__(self):
        self.now_s = 0.0

    def now(self):
        return self.now_s

    def pause(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock, monkeypatch):
    monkeypatch.delenv("UPS_HOSTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def make(shell, hosts="gpu1,gpu2"):
        provider = SshProvider(tmp_path / "run", shell, pause=clock.pause, now=clock.now)
        if hosts:
            provider.use_hosts(hosts)
        return provider

    return make


def rent(provider, host="gpu1", label="ups-r-0-g1"):
    provider.search(CPU)
    return provider.rent(Offer(host, host, "cpu", 0, 0.0, host), CPU, label=label, onstart="", env={})


# ---------------------------------------------------------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    ("text", "host", "words"),
    [
        ("gpu1", Host("gpu1"), ["--", "gpu1"]),
        ("me@gpu2:2222=0.4", Host("gpu2", "me", 2222, 0.4), ["-l", "me", "-p", "2222", "--", "gpu2"]),
        ("10.0.0.7=1", Host("10.0.0.7", usd_per_hour=1.0), ["--", "10.0.0.7"]),
    ],
)
def test_a_host_is_written_as_for_ssh_with_its_price(text, host, words):
    assert Host.parse(text) == host
    assert host.destination == words


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=x", "a b", "gpu1;reboot", "gpu1:0", "gpu1:70000", "@gpu1", "$(x)", ""]
)
def test_what_is_no_host_is_refused_before_ssh_sees_it(text):
    with pytest.raises(BadInput, match="is no host; write"):
        Host.parse(text)


def test_hosts_come_from_the_environment_or_else_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UPS_HOSTS", raising=False)
    assert named_hosts() == {}
    (tmp_path / ".config" / "ups").mkdir(parents=True)
    (tmp_path / ".config" / "ups" / "hosts").write_text("# mine\ngpu1 # fast\n\nme@gpu2=0.4\n", encoding="utf-8")

    from_file = list(named_hosts())
    monkeypatch.setenv("UPS_HOSTS", "gpu3, gpu4")

    assert from_file == ["gpu1", "me@gpu2"]
    assert list(named_hosts()) == ["gpu3", "gpu4"]


def test_a_fault_in_the_file_of_hosts_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UPS_HOSTS", raising=False)
    (tmp_path / ".config" / "ups").mkdir(parents=True)
    (tmp_path / ".config" / "ups" / "hosts").write_text("gpu1\n-oProxyCommand=x\n", encoding="utf-8")

    with pytest.raises(BadInput, match=r"/hosts: .-oProxyCommand=x.: is no host"):
        named_hosts()


def test_a_host_that_is_named_twice_is_one():
    assert parse_all(["gpu1,gpu1=0.3 gpu2"]) == {"gpu1": Host("gpu1"), "gpu2": Host("gpu2")}


def test_without_a_host_there_is_nothing_to_ask(make):
    provider = make(FakeShell(), hosts="")

    with pytest.raises(BadInput, match="no host is named; name your machines: --hosts"):
        provider.use_hosts("")
    with pytest.raises(NoOffer, match="no host is named"):
        provider.search(CPU)
    assert isinstance(provider, Hosted)


# ---------------------------------------------------------------------------------------------------------------- facts


def test_what_a_host_says_of_itself_is_read_whatever_else_it_says():
    facts = Facts.parse(FACTS + CARDS + "busy GPU-a\nheld alice GPU-b,GPU-c\nheld bob cpu\nnonsense\n\ngpu broken\n")

    assert [(gpu.uuid, round(gpu.memory_gb), gpu.name) for gpu in facts.gpus] == [
        ("GPU-a", 86, "NVIDIA H100 80GB HBM3"),
        ("GPU-b", 26, "NVIDIA L4"),
    ]
    assert facts.held == (("alice", "GPU-b"), ("alice", "GPU-c"), ("bob", "cpu"))
    assert (facts.cuda, facts.free(CPU)) == (12.5, [])


@pytest.mark.parametrize(
    ("more", "spec", "said"),
    [
        ("", CPU, ""),
        (CARDS, MachineSpec(), ""),
        ("", MachineSpec(), "has no GPU that nvidia-smi shows"),
        (f"{CARDS}busy GPU-a\nbusy GPU-b\n", MachineSpec(), "its GPUs are in use by another program"),
        (f"{CARDS}busy GPU-a\nheld alice GPU-b\n", MachineSpec(), "its GPUs are in use by a run of alice"),
        ("held alice cpu\n", CPU, "a run of alice occupies it"),
        ("owner bob\n", CPU, "~/.ups is bob's, and me cannot write it"),
        ("missing flock\n", CPU, "has no flock"),
        ("kills at logout\n", CPU, "ends every process when its user logs out"),
        (CARDS, MachineSpec(gpu_ram_gb=80), ""),
        (f"{CARDS}busy GPU-a\n", MachineSpec(gpu_ram_gb=80), "its GPUs are in use"),
        (CARDS, MachineSpec(gpu_ram_gb=141), "its largest GPU has 86 GB, and 141 are wanted"),
        ("", MachineSpec(ram_gb=64, needs_gpu=False), "has 24.6 GB of memory, and 64 are wanted"),
        ("", MachineSpec(disk_gb=100, needs_gpu=False), "has 92.2 GB free of the 100 wanted"),
    ],
)
def test_a_host_fits_or_says_why_it_does_not(more, spec, said):
    fault = Facts.parse(FACTS + more).fault(spec)

    assert fault.startswith(said)
    assert bool(fault) == bool(said)


def test_a_host_that_its_owner_prices_above_the_limit_is_not_asked(make):
    shell = FakeShell()

    with pytest.raises(NoOffer, match=r"gpu1: costs 0\.9 USD/h; raise --max-price"):
        make(shell, "gpu1=0.9").search(CPU)

    assert shell.asked == []


# -------------------------------------------------------------------------------------------------------------- silence


def test_a_host_is_waited_for_then_given_up_and_what_it_runs_is_ended_once_it_answers(make, clock):
    shell = FakeShell()
    provider = make(shell)
    instance = rent(provider)
    shell.off = {"gpu1"}

    with pytest.raises(UnknownOutcome):
        provider.describe(instance)
    clock.now_s = 299
    with pytest.raises(UnknownOutcome):
        provider.describe(instance)
    clock.now_s = 301
    found = provider.describe(instance)
    provider.destroy(instance)
    offered_without = provider.search(CPU)
    shell.off = set()
    offered_with = provider.search(CPU)

    assert (found.state, found.label) == ("away", "ups-r-0-g1")
    assert [one.id for one in offered_without] == ["gpu2"]
    assert [one.id for one in offered_with] == ["gpu1", "gpu2"]
    assert shell.runs["gpu1"] == {}


def test_an_answer_in_between_begins_the_waiting_anew(make, clock):
    shell = FakeShell()
    provider = make(shell)
    instance = rent(provider)
    for now, off in ((0, {"gpu1"}), (200, set()), (400, {"gpu1"}), (600, {"gpu1"})):
        clock.now_s, shell.off = now, off
        if off:
            with pytest.raises(UnknownOutcome):
                provider.describe(instance)
        else:
            assert provider.describe(instance).state == "running"


def test_a_person_is_not_told_that_a_silent_machine_is_gone(make, clock):
    shell = FakeShell()
    instance = rent(make(shell))
    shell.off = {"gpu1"}
    later = make(shell, hosts="")

    with pytest.raises(ProviderError, match=f"instance {instance} is not known to have ended"):
        later.destroy(instance)
    assert later.logs(instance) == ""


def test_only_where_a_run_was_started_from_here_does_silence_hide_one(make):
    shell = FakeShell()
    instance = rent(make(shell))
    shell.off = {"gpu2"}
    later = make(shell, hosts="")  # it knows gpu1 by the order alone

    assert [one.id for one in later.list_instances("ups-r-")] == [instance]
    shell.off = {"gpu1"}
    with pytest.raises(UnknownOutcome):
        later.list_instances("ups-r-")
    assert later.list_instances("ups-other-") == []


def test_after_a_lost_answer_the_order_is_known_to_the_next_process(make):
    shell = FakeShell()
    shell.lost = True
    with pytest.raises(UnknownOutcome):
        rent(make(shell))
    later = make(shell, hosts="")

    [found] = later.list_instances("ups-r-")
    later.destroy(found.id)
    shell.off = {"gpu1"}

    assert shell.runs["gpu1"] == {}
    assert later.list_instances("ups-r-") == []  # it is known to be gone


def test_a_host_that_cannot_start_a_run_is_left_for_another(make):
    shell = FakeShell()
    shell.broken = True

    with pytest.raises(OfferGone, match=r"gpu1: cannot do what was asked \(disk full\)"):
        rent(make(shell))


@pytest.mark.parametrize("entry", [{"event": "ordered"}, {"event": "ordered", "host": "-x", "label": "a"}, {"host": 7}])
def test_orders_that_are_none_are_refused_with_the_remedy(make, tmp_path, entry):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ssh-orders.jsonl").write_text(f"{json.dumps(entry)}\n", encoding="utf-8")

    with pytest.raises(BadInput, match=r"ssh-orders.jsonl: entry 1 is none of an order; runs may still go on"):
        make(FakeShell())


def test_the_orders_hold_no_more_than_host_label_and_number(make, tmp_path):
    instance = rent(make(FakeShell(), "gpu1=0.2"))

    entries = [json.loads(line) for line in (tmp_path / "run" / "ssh-orders.jsonl").read_text("utf-8").splitlines()]

    number = instance.rpartition("-")[2]
    assert entries == [
        {"event": "ordered", "host": "gpu1=0.2", "label": "ups-r-0-g1", "number": ""},
        {"event": "started", "host": "gpu1=0.2", "label": "ups-r-0-g1", "number": number},
    ]


def test_beside_another_provider_the_hosts_are_for_the_one_that_takes_them(make, tmp_path):
    own, other = make(FakeShell(), hosts=""), LocalProvider(tmp_path)
    both = Several({"ssh": own, "local": other})

    both.use_hosts("gpu1")

    assert isinstance(both, Hosted)
    assert list(own.offered) == ["gpu1"]
    with pytest.raises(BadInput, match="--hosts: local have machines of their own"):
        Several({"local": other}).use_hosts("gpu1")
