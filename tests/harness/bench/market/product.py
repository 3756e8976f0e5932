"""The policy of the product, as the replay asks it."""

from tasks.services.rental.choosing.policy import Machine, Sightings, Situation, choose


class ExpectedCost:
    """Sees the market tick by tick, as a controller does."""

    def __init__(self, work: int, deadline: int) -> None:
        del work, deadline
        self.seen = Sightings()

    def __call__(self, view: Situation) -> Machine:
        """The machine of least expected cost."""
        self.seen = self.seen.then(view.available)
        return choose(view, self.seen).machine
