"""Policies to compare with: on demand only, greedy, and Uniform Progress of "Can't Be Late" (NSDI 2024)."""

from tasks.services.rental.choosing.policy import Machine, Situation


def must_buy(view: Situation) -> bool:
    """Whether only a machine on demand, from now on or from the next tick on, is sure to be in time."""
    begun = view.ready_in if view.machine == "on demand" else view.changeover
    return view.work_left + begun >= view.time_left


class OnDemand:
    """Never an interruptible machine."""

    def __init__(self, work: int, deadline: int) -> None:
        del work, deadline

    def __call__(self, view: Situation) -> Machine:
        """Always the same."""
        return "on demand"


class Greedy:
    """An interruptible machine whenever there is one, nothing while there is none, on demand once it must be."""

    def __init__(self, work: int, deadline: int) -> None:
        del work, deadline
        self.bought = False

    def __call__(self, view: Situation) -> Machine:
        """Once on demand, it stays so."""
        self.bought = self.bought or must_buy(view)
        if self.bought:
            return "on demand"
        return "spot" if view.available else "none"


class UniformProgress:
    """Progress in proportion to the time that has passed: ahead of it nothing is bought, behind it on demand.

    Section 4 of the paper. What is expected at t is e(t) = t · work / deadline; a machine on demand is left for an
    interruptible one once the progress reaches e(t + 2 changeovers).
    """

    def __init__(self, work: int, deadline: int) -> None:
        self.work, self.deadline = work, deadline

    def __call__(self, view: Situation) -> Machine:
        """Its five rules."""
        if must_buy(view) and not (view.machine == "spot" and not view.ready_in):
            return "on demand"
        now, done = self.deadline - view.time_left, self.work - view.work_left
        if view.machine == "on demand":
            ahead = done >= self._expected(now + 2 * view.changeover)
            return "spot" if ahead and view.available else "on demand"
        if view.available:
            return "spot"
        if view.work_left + 2 * view.changeover > view.time_left or done < self._expected(now):
            return "on demand"
        return "none"

    def _expected(self, time: float) -> float:
        return time * self.work / self.deadline
