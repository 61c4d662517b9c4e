"""Reading patterns: precedence, text, and errors that point at the place."""

from __future__ import annotations

import pytest

from rewrite.errors import HypothesisError, PathError, UnknownName
from rewrite.ir.dag import Dag, Source
from rewrite.paths import PathSet, assign, bind, check_reachable, count_paths, paths
from tests.paths.dags import transformer_dag

DAG = transformer_dag(10, 10)


def shown(error: pytest.ExceptionInfo[Exception]) -> tuple[str, str]:
    """What the carets of an error message underline, and its whole text."""
    lines = str(error.value).splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip() and not line.strip(" ^"))
    marked = "".join(c for c, mark in zip(lines[at - 1], lines[at], strict=False) if mark == "^")
    return marked, str(error.value)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a5.h3", "a5.h3"),
        (" a5  ->\n m5 ", "a5 -> m5"),
        ("a->b", "a -> b"),
        ("a-b", "a - b"),
        ("a - b->c", "a - b -> c"),
        ("a -> b | c -> d", "a -> b | c -> d"),
        ("(a | b) -> c", "(a | b) -> c"),
        ("a -> (b -> c)", "a -> b -> c"),
        ("a | (b | c)", "a | b | c"),
        ("(a & b) - c", "a & b - c"),
        ("a & (b - c)", "a & (b - c)"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a | b) & c", "(a | b) & c"),
        ("~a - ~(b -> c)", "~a - ~(b -> c)"),
        ("~~a", "a"),
        ("~...", "~(...)"),
        ("(a)?", "a?"),
        ("(a -> b)* -> (c)* -> d?", "(a -> b)* -> (c)* -> d?"),
        ("((a)*)?", "((a)*)?"),
        ("(a) * -> *", "(a)* -> *"),
        ("a[ 5 - 7 ].h{1, 3}", "a[5-7].h{1,3}"),
    ],
)
def test_text(text: str, written: str) -> None:
    assert str(paths(text)) == written
    assert paths(written) == paths(text)


def test_strings_and_operators_bind_alike() -> None:
    a, b, c, d = map(paths, ("a", "b", "c", "d -> e"))
    one, two, three, step = map(paths, ("m1", "m2", "m3", "m4 -> m5"))
    read, built = paths("m1 | m2 & ~m3 - (m4 -> m5)"), one | two & ~three - step
    assert count_paths((read - built) | (built - read), DAG) == 0
    assert count_paths(read, DAG) > count_paths(one, DAG)
    assert paths("(a | b) - c & d -> e") == ((a | b) - c) & d
    assert "a" | b == paths("a | b")
    assert "a" & b == paths("a & b")
    assert "a" - b == paths("a - b")
    assert paths(a) is a
    assert (str(PathSet.all()), str(PathSet.none())) == ("...", "~(...)")


@pytest.mark.parametrize(
    ("text", "marked", "instead"),
    [
        ("", "", "it is empty\n    \n    ^\nwrite ... for all paths"),
        ("  ", "", "write ... for all paths"),
        ("a -> -> b", "->", "expected a name, ... or ( after ->, found ->"),
        ("a5.h3 ->", "->", "remove the arrow, or write ... behind it"),
        ("-> a5", "->", "expected a name, ... or (, found ->"),
        ("(a -> b", "(", "this ( is never closed"),
        ("a -> b)", ")", "this ) closes nothing"),
        ("()", ")", "~(...) for no path"),
        ("a b", "b", "write -> between nodes, | between alternatives"),
        ("(a b)", "b", "write -> between nodes"),
        ("a5.h3@", "@", "a position is a named group or a slice"),
        ("a5.h3.k[2:2]", "[2:2]", "the window [2:2] is empty"),
        ("a5[:]", "[:]", "leave it out"),
        ("tokens@[3:1]", "[3:1]", "the positions [3:1] are none"),
        ("a → b", "→", "write ->"),
        ("a > b", ">", "write -> with no space inside"),
        ("a..b", ".", "names like a5.h3"),
        ("a[5-7", "[", "write [5-7]"),
        ("a{1,3", "{", "write {1,3}"),
        ("m0 -> a[7-5].h1", "[7-5]", "is reversed: write [5-7]"),
        ("a[x]", "[x]", "a range has two numbers: write [5-7]"),
        ("a[0-99999999]", "[0-99999999]", "too wide"),
        ("a{1,}", "{1,}", "a list holds names or numbers: write {1,3}"),
        ("a -> (b & c) -> d", "&", "cannot stand inside a concatenation"),
        ("(a - b) -> c", "-", "cannot stand inside a concatenation"),
        ("a -> ~b", "~", "cannot stand inside a concatenation"),
        ("~a -> b", "~", "~(A -> B)"),
        ("(~a)*", "~", "cannot stand inside a concatenation"),
        ("(a & b) | (c -> (d -> (e - f)))", "-", "cannot stand inside a concatenation"),
        ("a & & b", "&", "after &, found &"),
        ("... *", "*", "write (A)* to repeat A"),
        ("a -> b ??? c", "c", "expected -> or |, found c"),
        ("?", "?", "found ?"),
    ],
)
def test_syntax_errors(text: str, marked: str, instead: str) -> None:
    with pytest.raises(PathError) as error:
        paths(text)
    found, message = shown(error)
    assert found.strip() == marked
    assert instead in message
    assert message.startswith("cannot read the pattern: ")
    assert text in message


def test_lines_of_a_long_pattern_stay_in_one() -> None:
    with pytest.raises(PathError) as error:
        paths("a5.h3\n  -> m5 ->\n  @")
    assert str(error.value).splitlines()[1:3] == [
        "    a5.h3   -> m5 ->   @",
        "                       ^",
    ]


@pytest.mark.parametrize(
    ("text", "marked", "offered"),
    [
        ("tokens -> a5.h33 -> logits", "a5.h33", "did you mean a5.h3"),
        ("a5 - (m5 | m55)", "m55", "did you mean m5"),
        ("a[50-60].h1", "a[50-60].h1", ""),
        ("a5.h3.q.x", "a5.h3.q.x", "a5.h3.q"),
        ("a5 & a", "a", ""),
    ],
)
def test_unknown_names(text: str, marked: str, offered: str) -> None:
    with pytest.raises(UnknownName) as error:
        bind(text, DAG)
    found, message = shown(error)
    assert found == marked
    assert text in message
    assert offered in message


@pytest.mark.parametrize(
    ("text", "marked", "why"),
    [
        ("a9.h9 -> a5.h3", "a5.h3", "no path goes from a9.h9 on to a5.h3: a5.h3 comes before it"),
        ("m0 -> ... -> a9 -> (m3 | m4) -> a9", "(m3 | m4)", "(m3 | m4) comes before it"),
        ("a5.h3 -> ... -> a5.h4", "a5.h4", "a5.h3 never leads to a5.h4"),
        ("m5 -> ... -> m5 -> logits", "m5", "m5 never leads to m5"),
        (
            "tokens -> a5",
            "a5",
            "no edge goes from tokens straight to a5: write tokens -> ... -> a5",
        ),
        ("(logits -> tokens)?  -> logits -> embed | m9 -> m8", "", "no path of the graph is in"),
        ("m1 & a1 - embed", "", "no path of the graph is in this set"),
        ("~(...)", "", "no path of the graph is in this set"),
    ],
)
def test_empty_sets(text: str, marked: str, why: str) -> None:
    with pytest.raises(PathError) as error:
        check_reachable(text, DAG)
    found, message = shown(error)
    assert why in message
    assert str(paths(text)) in message
    assert not marked or found == marked


def test_what_no_path_goes_through() -> None:
    dag = Dag((*DAG.nodes, Source("unused")), DAG.outputs)
    with pytest.raises(PathError, match="no path from a source to an output goes through unused"):
        check_reachable("unused -> logits", dag)


def test_the_default_is_not_among_the_runs() -> None:
    with pytest.raises(HypothesisError, match="clean is the default"):
        assign({"clean": "a5"}, "clean", DAG)


def test_three_runs_of_which_two_overlap() -> None:
    runs = {"one": "m1 - m2", "two": "m2", "three": "m3 - m2"}
    with pytest.raises(HypothesisError) as error:
        assign(runs, "rest", DAG)
    assert str(error.value).splitlines() == [
        "runs one and three both claim the path tokens -> embed -> m1 -> m3 -> logits",
        "make them disjoint: write three as (m3 - m2) - (m1 - m2)",
    ]


def test_no_runs() -> None:
    automaton = assign({}, "rest", DAG)
    assert automaton.run(automaton.step(automaton.start, "tokens")) == "rest"


def test_symbols_of_other_graphs_are_refused() -> None:
    with pytest.raises(KeyError):
        assign({"one": "m1"}, "rest", DAG).step(0, "nowhere")
