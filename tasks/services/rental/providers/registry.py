"""The providers that there are: ours, and those of installed packages (entry points of the group `ups.providers`)."""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tasks.services.rental.provider import Provider
from tasks.services.rental.providers.several import BETWEEN, Several
from ups_models.errors import BadInput

GROUP = "ups.providers"
ROOM = "tasks.services.rental.providers"
OURS = (
    EntryPoint("vast", f"{ROOM}.vast:VastProvider.for_run", GROUP),
    EntryPoint("runpod", f"{ROOM}.runpod:RunpodProvider.for_run", GROUP),
    EntryPoint("ssh", f"{ROOM}.ssh.provider:SshProvider.for_run", GROUP),
    EntryPoint("local", f"{ROOM}.local:LocalProvider.for_run", GROUP),
)
DEFAULT = OURS[0].name

Factory = Callable[[Path], Provider]
"""Makes a provider for a run directory. Raises ProviderRefused without a key."""


def names() -> tuple[str, ...]:
    """What may be given as --provider, ours first."""
    return tuple(_known())


def entry_of(name: str) -> EntryPoint:
    """The entry of a provider. Raises BadInput that names all."""
    entry = _known().get(name)
    if entry is None:
        raise BadInput(f"--provider {name}: no such provider; choose one of {', '.join(names())}")
    return entry


def provider_for(name: str, run_dir: Path) -> Provider:
    """A provider, ready to be asked; its module is imported only now. Raises BadInput, ProviderRefused.

    Several names with commas between them make one provider that asks all.
    """
    if "," in name:
        return Several({one: provider_for(one, run_dir) for one in name.split(",")})
    entry = entry_of(name)
    try:
        factory: Factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--provider {name}: {entry.value} cannot be imported ({error}); install it again") from error
    return factory(run_dir)


def provider_of(ids: Iterable[str], name: str, run_dir: Path) -> Provider:
    """The provider of these instances: those that their ids begin with, else the one that is named."""
    begins = dict.fromkeys(one.partition(BETWEEN)[0] for one in ids if BETWEEN in one)
    several = [begin for begin in begins if begin in names()]
    return Several({one: provider_for(one, run_dir) for one in several}) if several else provider_for(name, run_dir)


def _known() -> dict[str, EntryPoint]:
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    ours = {entry.name: entry for entry in OURS}
    return ours | {name: entry for name, entry in installed.items() if name not in ours}
