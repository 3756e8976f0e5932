"""The part of GraphQL that a client sends: fields, arguments, variables, fragments and directives, over plain dicts."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Args = dict[str, Any]
Node = dict[str, Any]
"""A field's value is a scalar, a Node, a list of either, or a function of the field's arguments that returns one."""

TOKEN = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\])*"|\.\.\.|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|[{}()\[\]:!$=@|&]')
COMMENT = re.compile(r"#[^\n]*")
CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}


class GraphQLError(Exception):
    """What a client reads in the `errors` of an answer."""


@dataclass(frozen=True)
class Variable:
    """A place for a value that comes with the request."""

    name: str


@dataclass
class Selection:
    """A field, the spread of a named fragment (`spread`), or an inline fragment (no `name`)."""

    name: str = ""
    key: str = ""
    spread: str = ""
    args: Args = field(default_factory=dict)
    directives: dict[str, Args] = field(default_factory=dict)
    selections: list["Selection"] = field(default_factory=list)


@dataclass
class Document:
    """One operation and the fragments sent with it."""

    name: str = ""
    defaults: Args = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    fragments: dict[str, list[Selection]] = field(default_factory=dict)


class _Parser:
    """Reads a document from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(COMMENT.sub("", text))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        if not token:
            raise GraphQLError("syntax error: the document ends too early")
        self.at += 1
        return token

    def skip(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.at += 1
        return True

    def document(self) -> Document:
        document = Document()
        while self.peek():
            if self.skip("fragment"):
                name = self.next()
                self.next()  # on
                self.next()  # the type: a node holds no field that its type lacks
                document.fragments[name] = self.selections()
            else:
                self.operation(document)
        return document

    def operation(self, document: Document) -> None:
        if self.peek() != "{":
            self.next()  # query or mutation
            if self.peek() not in "({@":
                document.name = self.next()
            if self.skip("("):
                self.variable_definitions(document.defaults)
        document.selections = self.selections()

    def variable_definitions(self, defaults: Args) -> None:
        while not self.skip(")"):
            self.next()  # $
            name = self.next()
            self.next()  # :
            while self.peek() in {"[", "]", "!"} or re.fullmatch(r"\w+", self.peek()):
                self.next()
            if self.skip("="):
                defaults[name] = self.value()

    def selections(self) -> list[Selection]:
        if not self.skip("{"):
            return []
        found = []
        while not self.skip("}"):
            found.append(self.selection())
        return found

    def selection(self) -> Selection:
        chosen = Selection()
        if self.skip("..."):
            if self.skip("on"):
                self.next()
            elif self.peek() not in {"{", "@"}:
                chosen.spread = self.next()
        else:
            chosen.name = chosen.key = self.next()
            if self.skip(":"):
                chosen.name = self.next()
            chosen.args = self.arguments()
        while self.skip("@"):
            directive = self.next()
            chosen.directives[directive] = self.arguments()
        chosen.selections = self.selections()
        return chosen

    def arguments(self) -> Args:
        args: Args = {}
        if self.skip("("):
            while not self.skip(")"):
                name = self.next()
                self.next()  # :
                args[name] = self.value()
        return args

    def value(self) -> Any:
        word = self.next()
        if word == "$":
            return Variable(self.next())
        if word == "[":
            return self.items()
        if word == "{":
            self.at -= 1
            return self.object()
        if word in CONSTANTS:
            return CONSTANTS[word]
        if word.startswith('"""'):
            return word[3:-3]
        return json.loads(word) if re.match(r'["\d-]', word) else word

    def items(self) -> list[Any]:
        found = []
        while not self.skip("]"):
            found.append(self.value())
        return found

    def object(self) -> Args:
        self.next()
        fields: Args = {}
        while not self.skip("}"):
            name = self.next()
            self.next()  # :
            fields[name] = self.value()
        return fields


def parse(text: str) -> Document:
    """Read one operation and its fragments."""
    return _Parser(text).document()


@dataclass
class _Execution:
    document: Document
    variables: Args

    def filled(self, value: Any) -> Any:
        if isinstance(value, Variable):
            return self.variables.get(value.name)
        if isinstance(value, dict):
            return {name: self.filled(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.filled(part) for part in value]
        return value

    def wanted(self, selection: Selection) -> bool:
        include, skip = selection.directives.get("include"), selection.directives.get("skip")
        if include is not None and not self.filled(include["if"]):
            return False
        return skip is None or not self.filled(skip["if"])

    def collect(self, selections: list[Selection], into: dict[str, Selection]) -> dict[str, Selection]:
        for chosen in filter(self.wanted, selections):
            if not chosen.name:
                inner = self.document.fragments[chosen.spread] if chosen.spread else chosen.selections
                self.collect(inner, into)
            elif chosen.key in into:
                merged = into[chosen.key].selections + chosen.selections
                into[chosen.key] = Selection(chosen.name, chosen.key, args=chosen.args, selections=merged)
            else:
                into[chosen.key] = chosen
        return into

    def complete(self, value: Any, selections: list[Selection]) -> Any:
        if isinstance(value, list) and selections:
            return [self.complete(item, selections) for item in value]
        if isinstance(value, Mapping) and selections:
            fields = self.collect(selections, {})
            return {key: self.resolve(value, chosen) for key, chosen in fields.items()}
        return value

    def resolve(self, node: Mapping[str, Any], chosen: Selection) -> Any:
        value = node.get(chosen.name)
        if callable(value):
            value = value(self.filled(chosen.args))
        return self.complete(value, chosen.selections)


Root = Mapping[str, Callable[[Args], Any]]


def execute(document: Document, variables: Args, root: Root) -> Node:
    """Answer an operation; a nested field that a node lacks is null, a field that the root lacks is an error."""
    execution = _Execution(document, document.defaults | {k: v for k, v in variables.items() if v is not None})
    fields = execution.collect(document.selections, {})
    for chosen in fields.values():
        if chosen.name not in root:
            raise GraphQLError(f'Cannot query field "{chosen.name}" in {document.name or "this operation"}.')
    return {key: execution.resolve(root, chosen) for key, chosen in fields.items()}


def connection(nodes: list[Node], args: Args) -> Node:
    """One page of nodes, as W&B pages everything: `first` of them from the cursor `after` on."""
    start = int(args.get("after") or 0)
    first = args.get("first")
    stop = len(nodes) if first is None else min(start + first, len(nodes))
    edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(nodes[start:stop])]
    page_info = {"__typename": "PageInfo", "endCursor": str(stop), "hasNextPage": stop < len(nodes)}
    return {"totalCount": len(nodes), "edges": edges, "pageInfo": page_info}
