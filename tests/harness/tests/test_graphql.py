"""The GraphQL that clients send, answered over plain dicts."""

import pytest

from harness.emulators.wandb.graphql import GraphQLError, connection, execute, parse

QUERY = """
query Runs($name: String!, $first: Int = 2, $deep: Boolean = false, $list: [String!]) {
  alias: project(name: $name, where: {names: ["a", $name], kind: OLD, at: -1.5}) {
    __typename # a comment
    ...Named
    runs(first: $first) { edges { node { id } } pageInfo { ...Page } }
    extra @include(if: $deep) { id }
    ... on Project { id }
  }
}
fragment Named on Project { name owner { name } owner { id } }
fragment Page on PageInfo { endCursor hasNextPage }
"""


def project(args):
    runs = [{"id": str(i)} for i in range(3)]
    return {
        "__typename": "Project",
        "id": "1",
        "name": args["where"],
        "owner": {"id": "o", "name": "n", "secret": "s"},
        "runs": lambda inner: connection(runs, inner),
        "extra": {"id": "e"},
    }


def test_fragments_aliases_arguments_and_defaults_shape_the_answer():
    answer = execute(parse(QUERY), {"name": "p", "first": None}, {"project": project})

    assert answer == {
        "alias": {
            "__typename": "Project",
            "name": {"names": ["a", "p"], "kind": "OLD", "at": -1.5},
            "owner": {"name": "n", "id": "o"},
            "runs": {
                "edges": [{"node": {"id": "0"}}, {"node": {"id": "1"}}],
                "pageInfo": {"endCursor": "2", "hasNextPage": True},
            },
            "id": "1",
        }
    }


def test_a_directive_adds_a_field():
    assert execute(parse(QUERY), {"name": "p", "deep": True}, {"project": project})["alias"]["extra"] == {"id": "e"}


def test_an_unknown_field_of_the_root_is_an_error():
    with pytest.raises(GraphQLError, match='Cannot query field "project" in Runs'):
        execute(parse(QUERY), {"name": "p"}, {})


def test_a_cursor_leads_to_the_next_page():
    nodes = [{"id": i} for i in range(3)]

    page = connection(nodes, {"first": 2, "after": "2"})

    assert [edge["node"]["id"] for edge in page["edges"]] == [2]
    assert page["pageInfo"]["hasNextPage"] is False
