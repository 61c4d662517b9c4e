"""Random patterns over the parts of `dags.dags`, as text and as trees."""

from __future__ import annotations

from hypothesis import strategies as st

from rewrite.paths import PathSet, paths

ATOMS = [
    "x", "y", "*", "embed", "a0", "a0.h0", "a0.h1.k", "a*.h0.q", "a[0-1].h0", "a{0,1}.h[0-0].{q,k}",
    "*.*.k", "m0", "m*", "m{0,1}", "first", "a0.kv0", "model.layers.*.mlp", "a1.h*", "logits",
]  # fmt: skip

atoms = st.sampled_from(ATOMS)


def _longer(walks: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = walks.map("({})".format)
    return st.one_of(
        st.lists(st.one_of(atoms, st.just("..."), group), min_size=2, max_size=4).map(" -> ".join),
        st.lists(walks, min_size=2, max_size=3).map(" | ".join).map("({})".format),
        group.map("{}*".format),
        group.map("{}?".format),
        atoms.map("{}?".format),
    )


walks = st.recursive(st.one_of(atoms, st.just("...")), _longer, max_leaves=6)


def _algebra(sets: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = sets.map("({})".format)
    mark = st.sampled_from([" | ", " & ", " - "])
    return st.one_of(
        group.map("~{}".format),
        st.builds("{}{}{}".format, group, mark, group),
        st.builds("{}{}{}{}{}".format, atoms, mark, walks, mark, atoms.map("~{}".format)),
    )


texts = st.recursive(walks, _algebra, max_leaves=4)
path_sets: st.SearchStrategy[PathSet] = texts.map(paths)
