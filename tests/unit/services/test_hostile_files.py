"""Files that somebody made up: every reader refuses them in one plain line, or reads them, at once."""

import time

import pytest

from harness.trust.cases import LIMIT_S, outcome_of
from harness.trust.hostile_files import archives, headers
from harness.trust.hostile_texts import texts

COUNTS = {headers: 12, archives: 12, texts: 36}  # texts: four kinds of each of nine files


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("make", COUNTS, ids=lambda make: make.__name__)
def test_a_file_that_somebody_made_up_is_refused_in_one_line_or_read(tmp_path, make, seed):
    wrong, slow = [], []
    for case in make(tmp_path, COUNTS[make], seed):
        began = time.monotonic()
        outcome = outcome_of(case)
        if outcome not in ("read", "refused"):
            wrong.append(outcome)
        if time.monotonic() - began > LIMIT_S:
            slow.append(case.name)

    assert (wrong, slow) == ([], [])
