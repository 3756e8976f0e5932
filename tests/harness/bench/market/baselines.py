"""Policies to compare with: on demand only, greedy, and Uniform Progress of "Can't Be Late" (NSDI 2024)."""

from harness.bench.market.replay import Machine, View


class OnDemand:
    """Never an interruptible machine."""

    def __init__(self, work: int, deadline: int) -> None:
        del work, deadline

    def __call__(self, view: View) -> Machine:
        """Always the same."""
        return "on demand"


class Greedy:
    """An interruptible machine whenever there is one, nothing while there is none, on demand once it must be."""

    def __init__(self, work: int, deadline: int) -> None:
        del work, deadline
        self.bought = False

    def __call__(self, view: View) -> Machine:
        """Once on demand, it stays so."""
        self.bought = self.bought or view.must_buy
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

    def __call__(self, view: View) -> Machine:
        """Its five rules."""
        if view.must_buy and not (view.machine == "spot" and not view.ready_in):
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
