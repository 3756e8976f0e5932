"""What is on offer now, by bid and on demand, without machines that have failed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.services.rental.choosing.ranking import Prospect, Ranking
from tasks.services.rental.journal import Journal
from tasks.services.rental.provider import KeyRefused, MachineSpec, NoOffer, Provider, UnknownOutcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Market:
    """A provider's offers for one launch.

    Attributes:
        endure: Takes a refused key; raises it where that is final.
        on_exhausted: Called when every machine on offer has failed before.
    """

    provider: Provider
    spec: MachineSpec
    journal: Journal
    endure: Callable[[KeyRefused], None]
    on_exhausted: Callable[[], None]

    @property
    def may_bid(self) -> bool:
        """Whether interruptible machines are wanted, and this provider has any."""
        return self.spec.interruptible and self.provider.supports_bids

    def best(self, ranking: Ranking, *, interruptible: bool) -> Prospect | None:
        """The best offer of a kind; None: there is none now.

        Raises NoOffer before the first machine of a launch: nothing is lost yet, and a person should choose.
        """
        found = self.offers(ranking, interruptible=interruptible)
        return found[0] if found else None

    def offers(self, ranking: Ranking, *, interruptible: bool) -> list[Prospect]:
        """All offers of a kind, the best first; raises as `best` does."""
        spec = replace(self.spec, interruptible=interruptible)
        try:
            offers = self.provider.search(spec)
        except NoOffer:
            if not self.journal.rented():
                raise
            return []
        except UnknownOutcome as error:
            logger.warning("%s; searching again", error)
            return []
        except KeyRefused as error:
            self.endure(error)
            return []
        fresh = [offer for offer in offers if offer.machine_id not in self.journal.excluded]
        if not fresh:
            self.on_exhausted()
        return ranking.best_first(fresh, spec)
