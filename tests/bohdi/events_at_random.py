"""Event sequences at random, such as rounds make them: hypothesis draws the choices."""

from __future__ import annotations

from hypothesis import strategies as st

from offline.bohdi.events import (
    ROOT,
    AnyEvent,
    Contested,
    FoldRules,
    Planted,
    Reborn,
    Retired,
    RoundBegan,
    RoundEnded,
    Sprouted,
    SproutFailed,
    TargetChanged,
    TrafficMapped,
    node_id,
)

LEVELS = 2
RULES = FoldRules(window=3, discount=0.9, carry=0.7)
PLANTED = Planted(at=0.0, levels=LEVELS, target="t", target_version="0", sources=("a",), seed=0, rules=RULES)


def name_of(number: int) -> str:
    return f"Domain {number}"


MAINS = [node_id(ROOT, name_of(i)) for i in range(3)]
LEAVES = [(main, node_id(main, name_of(i))) for main in MAINS for i in range(3)]
SPROUTS: list[AnyEvent] = [Sprouted(at=0.0, node=main, parent=ROOT, name=name_of(i)) for i, main in enumerate(MAINS)]
SPROUTS += [
    Sprouted(at=0.0, node=leaf, parent=main, name=name_of(i % 3), embedding=(0.5, -1.0))
    for i, (main, leaf) in enumerate(LEAVES)
]


def contested(step: int, path: tuple[str, ...], reward: float | None) -> Contested:
    return Contested(
        at=1.0, round=1, step=f"s{step}", path=path, question="Why?", replies=(), reward=reward,
        dropped="" if reward is not None else "tie", target_version="0", seed=step, prompts_version="1",
    )  # fmt: skip


_paths = st.sampled_from(LEAVES)
_nodes = st.sampled_from([*MAINS, *(leaf for _, leaf in LEAVES)])
_rewards = st.one_of(st.none(), st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
_counts = st.dictionaries(_nodes, st.floats(0.0, 5.0), max_size=3)
_later: st.SearchStrategy[AnyEvent] = st.one_of(
    st.builds(contested, st.integers(0, 10**9), _paths, _rewards),
    st.builds(contested, st.integers(0, 10**9), _paths, _rewards),
    st.builds(contested, st.integers(0, 10**9), _paths, _rewards),
    st.builds(TargetChanged, at=st.just(2.0), version=st.sampled_from(["0", "1", "2"])),
    st.builds(SproutFailed, at=st.just(2.0), round=st.integers(1, 9), parent=_nodes, reason=st.just("known")),
    st.builds(
        RoundBegan, at=st.just(3.0), round=st.integers(1, 9), leader=st.just("a"), paths=st.just(2), seed=st.just(0),
        target_version=st.just("0"), prompts_version=st.just("1"),
        rules=st.sampled_from([None, FoldRules(window=5), FoldRules(window=2, carry=0.5)]),
    ),
    st.builds(RoundEnded, at=st.just(3.0), round=st.integers(1, 9), contests=st.just(1), dropped=st.just(0)),
    st.builds(
        Reborn, at=st.just(4.0), round=st.integers(1, 9), node=_nodes, rule=st.just("two_sample"),
        statistic=st.just(9.0), p_value=st.just(0.001), window=st.just(()),
    ),
    st.builds(Retired, at=st.just(5.0), node=_nodes, reason=st.just("test")),
    st.builds(TrafficMapped, at=st.just(6.0), counts=_counts, unmatched=_counts, until=st.floats(0.0, 9.0)),
)  # fmt: skip

histories = st.lists(_later, max_size=40).map(lambda later: [PLANTED, *SPROUTS, *later])
"""Logs of a planted tree with three domains of three leaves each, and what may happen to them, in any order."""
