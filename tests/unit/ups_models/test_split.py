"""Splits are disjoint, complete, and by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ups_models.data.split import split_rows
from ups_models.errors import DataError


@given(n_rows=st.lists(st.integers(1, 40), min_size=1, max_size=4), val=st.integers(0, 15), test=st.integers(0, 15))
def test_a_split_is_disjoint_and_complete_and_the_same_in_every_file(n_rows, val, test):
    row = torch.cat([torch.arange(n) for n in n_rows])

    if max(n_rows) <= val + test:
        with pytest.raises(DataError, match=r"none of .* to train on"):
            split_rows(row, val=val, test=test)
        return
    split = split_rows(row, val=val, test=test)

    parts = [set(row[mask].tolist()) for mask in (split.train, split.val, split.test)]
    assert torch.equal(split.train.int() + split.val.int() + split.test.int(), torch.ones_like(row).int())
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == max(n_rows)
    assert parts[2] == set(range(min(test, max(n_rows))))
    assert parts[1] == set(range(test, min(test + val, max(n_rows))))


def test_a_split_of_negative_size_is_refused():
    with pytest.raises(DataError, match="val=-1"):
        split_rows(torch.arange(4), val=-1, test=1)
