"""A problem by its name: a row of the table, or an object in a Python file of the user's."""

import difflib
from collections.abc import Mapping

from ups_models.errors import BadInput
from ups_models.own_code import is_reference, own_code
from ups_models.problems.problem import Problem
from ups_models.problems.registry import EVOLVING, PROBLEMS
from ups_models.wording import shown


def evolving_problem(name: str) -> Problem:
    """A problem with trajectories, as `kdv1d` or `my_pde.py:WAVE`. Raises BadInput."""
    if getattr(PROBLEMS.get(name), "steady", False):
        raise BadInput(f"{name} has steady states, which are steady_data. With trajectories: {', '.join(EVOLVING)}")
    return _problem_in(name, EVOLVING)


def problem_named(name: str) -> Problem:
    """Any problem. Raises BadInput."""
    return _problem_in(name, PROBLEMS)


def _problem_in(name: str, table: Mapping[str, Problem]) -> Problem:
    if name in table:
        return table[name]
    if is_reference(name):
        return _own(name)
    near = difflib.get_close_matches(name, table, 1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise BadInput(
        f"no problem is called {shown(name)}{meant} Known: {', '.join(table)}; or an object of your own, as "
        "my_pde.py:NAME"
    )


def _own(name: str) -> Problem:
    found = own_code(name).load()
    if not isinstance(found, Problem):
        raise BadInput(f"{name} is a {type(found).__name__}, expected a Problem; see docs/extension.md")
    if found.name in PROBLEMS:
        raise BadInput(f"{name}: {found.name} is the name of a problem that is there already; choose another")
    places = len(found.parameters) + 1
    if found.pattern and found.pattern.count("{}") != places:
        raise BadInput(
            f"{name}: pattern {shown(found.pattern)} must have {places} places {{}}, one a parameter"
            " and for a key that tells other data apart; or leave it out"
        )
    return found
