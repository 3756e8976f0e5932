"""The end of a rented machine: destroyed, and looked at again until it is gone; the answer alone proves nothing."""

from __future__ import annotations

from collections.abc import Callable

from tasks.services.rental.provider import Instance, ProviderError, ProviderRefused, UnknownOutcome
from tasks.services.run.retry import retrying

AGAIN_AFTER_S = (3.5,) * 11


class _StillThere(ProviderError):
    """A destroyed instance is not gone yet."""


def destroy_for_good(
    instance_id: str,
    destroy: Callable[[], str],
    describe: Callable[[str], Instance | None],
    pause: Callable[[float], None],
) -> None:
    """Destroy until it is gone. Raises ProviderError, which says what it costs to do nothing.

    Args:
        instance_id: As the market names it.
        destroy: Asks for it once; what kept it from happening, in words, or nothing.
        describe: The instance as it is now; None once it is gone.
        pause: Waits.
    """

    def once() -> None:
        reason = destroy() or "it is still listed"
        try:
            if describe(instance_id) is None:
                return
        except (UnknownOutcome, ProviderRefused) as error:  # a refusal may pass, and the machine costs until then
            reason = str(error)
        raise _StillThere(reason)

    try:
        retrying(AGAIN_AFTER_S, _StillThere, pause=pause, warn=False)(once)
    except _StillThere as error:
        raise ProviderError(
            f"instance {instance_id} is not destroyed ({error}), and costs money: "
            f"`ups destroy {instance_id}`, or destroy it in the console"
        ) from None
