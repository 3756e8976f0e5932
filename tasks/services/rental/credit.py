"""What the account at a provider has left, looked at before a machine is rented and while it runs."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.services.rental.provider import Accounted, Provider, ProviderRefused, UnknownOutcome

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 600.0


def credit_of(provider: Provider) -> float | None:
    """The credit in USD; None where there is no account, or it does not say."""
    return provider.credit() if isinstance(provider, Accounted) else None


@dataclass
class CreditWatch:
    """Looks at the credit of one account."""

    provider: Provider
    clock: Callable[[], float] = time.monotonic
    looked_at: float | None = None

    def require_hour(self, usd_per_hour: float) -> None:
        """Raise ProviderRefused where the credit is less than what the first hour costs."""
        credit = self._ask()
        if credit is not None and credit < usd_per_hour:
            raise ProviderRefused(
                f"the account has a credit of {credit:.2f} USD, less than the first hour of the machine costs "
                f"({usd_per_hour:.3f} USD); add some, or choose a cheaper machine with --max-price"
            )

    def warn(self, usd_per_hour: float) -> None:
        """Warn, from time to time, where less than an hour is left."""
        if self.looked_at is not None and self.clock() - self.looked_at < LOOK_EVERY_S:
            return
        credit = self._ask()
        if credit is not None and credit < usd_per_hour:
            logger.warning(
                "the account has a credit of %.2f USD, enough for %.0f minutes at %.3f USD/h: add some, or the "
                "provider stops the machine",
                credit,
                max(0.0, credit) / usd_per_hour * 60,
                usd_per_hour,
            )

    def _ask(self) -> float | None:
        self.looked_at = self.clock()
        try:
            credit = credit_of(self.provider)
            return None if credit is None else round(credit, 2) + 0.0  # not -0.00
        except (UnknownOutcome, ProviderRefused) as error:
            logger.warning("%s: how much credit is left is not known", error)
            return None
