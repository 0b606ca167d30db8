"""What the routers trained by descent promise beyond what every router does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.protocol import EncoderUnavailable
from routers.catalogue import ROUTERS
from routers.expense import Expense
from routers.neural.affine import fitted_lines
from routers.neural.bert import BertRouter, pooled
from routers.neural.early_stopping import as_parameters, torch_module
from routers.neural.graph_nodes import Edges, Maps, known, llm_nodes
from routers.neural.graph_training import _loss, predicted
from routers.neural.graphrouter import GraphRouter
from routers.neural.heads import HeldOut, chosen_strength, fitted_heads, log_loss, sigmoid
from routers.neural.routerdc import good_and_bad
from routers.neural.text_backbones import Backbone, named_backbone, small_backbone
from routers.neural.text_encoder import Shape, encoded
from routers.neural.text_tokens import Tokens
from routers.neural.text_training import encoded_with_gradients
from routers.protocol import Outcomes, Prediction, Router, TrainingError
from tests.routers.worlds import TOPICS, masked, skills, topic_texts, topic_vectors, world

NEURAL = ("mlp", "graphrouter", "routerdc", "bert")
SMALL: dict[str, dict[str, Any]] = {"bert": {"layers": 1, "width": 32, "tokens": 32}}
OURS = pytest.mark.parametrize("name", NEURAL)


def fitted(name: str, outcomes: Outcomes, seed: int = 0) -> Router:
    return ROUTERS[name].fit(outcomes, seed=seed, **SMALL.get(name, {}))


def fresh(router: Router, seed: int = 99) -> tuple[Prediction, np.ndarray[Any, Any]]:
    """Predictions for fresh queries, and their topics."""
    topics = np.random.default_rng(seed).integers(TOPICS, size=300)
    return router.predict_batch(topic_vectors(topics, seed), None, topic_texts(topics, seed)), topics


def accuracy(router: Router) -> float:
    prediction, topics = fresh(router)
    return float(skills(prediction.quality.shape[1])[topics, prediction.quality.argmax(axis=1)].mean())


@OURS
def test_it_learns_which_arm_is_good_at_what_and_how_good(name: str) -> None:
    router = fitted(name, world(rows=1000))
    assert accuracy(router) > 0.85
    prediction, topics = fresh(router)
    assert np.abs(prediction.quality - skills(5)[topics]).mean() < 0.09


@OURS
def test_it_learns_from_one_answer_per_query(name: str) -> None:
    assert accuracy(fitted(name, masked(world(rows=2000)))) > 0.75


@OURS
def test_what_an_unobserved_cell_holds_elsewhere_never_matters(name: str) -> None:
    """A cell without a score may still carry a propensity, a cost or a latency of an answer nobody scored."""
    outcomes = masked(world(rows=300))
    hidden = np.isnan(outcomes.quality)
    filled = np.where(hidden, np.float32(0.37), outcomes.propensity)
    first, second = fitted(name, outcomes), fitted(name, replace(outcomes, propensity=filled))
    assert all(a.tobytes() == second.arrays()[key].tobytes() for key, a in first.arrays().items())


@OURS
def test_two_names_of_one_arm_get_the_same_quality(name: str) -> None:
    outcomes = world(rows=300)
    columns = [0, 1, 2, 3, 4, 1]
    twice = replace(
        outcomes,
        arms=(*outcomes.arms, "again"),
        quality=outcomes.quality[:, columns],
        cost_usd=outcomes.cost_usd[:, columns],
        latency_s=outcomes.latency_s[:, columns],
        propensity=outcomes.propensity[:, columns],
    )
    prediction, _ = fresh(fitted(name, twice))
    assert prediction.quality[:, 1] == pytest.approx(prediction.quality[:, 5], abs=2e-3)


@OURS
def test_an_arm_of_few_answers_is_less_certain(name: str) -> None:
    outcomes = world(rows=1000)
    rare = np.arange(1000) % 25 != 0
    quality, propensity = outcomes.quality.copy(), outcomes.propensity.copy()
    quality[rare, 1] = np.nan
    propensity[rare, 1] = np.nan
    prediction, _ = fresh(fitted(name, replace(outcomes, quality=quality, propensity=propensity)))
    assert prediction.quality_std[:, 1].mean() > 1.5 * prediction.quality_std[:, 4].mean()


def test_heads_on_a_constant_are_the_arms_means_with_their_standard_errors() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((2000, 2)) < [0.3, 0.6]).astype(np.float32)
    heads = fitted_heads(np.zeros((2000, 1), dtype=np.float32), scores, np.ones_like(scores), 10.0)
    quality, std = heads.predict(np.zeros((1, 1), dtype=np.float32))
    assert quality[0] == pytest.approx(scores.mean(axis=0), abs=0.002)
    assert std[0] == pytest.approx(np.sqrt(quality[0] * (1 - quality[0]) / 2000), rel=0.02)


def test_heads_recover_logistic_regressions_and_strength_follows_the_data() -> None:
    rng = np.random.default_rng(1)
    hidden = (3.0 + 2.0 * rng.standard_normal((6000, 3))).astype(np.float32)
    true = np.array([[1.0, -1.0], [0.0, 0.5], [-0.5, 0.0]])
    chance = sigmoid((hidden - 3.0) / 2.0 @ true)
    scores = (rng.random(chance.shape) < chance).astype(np.float32)
    ones = np.ones_like(scores)
    held_out = HeldOut(hidden[5000:], scores[5000:], ones[5000:])
    assert chosen_strength(hidden[:5000], scores[:5000], ones[:5000], held_out) <= 30.0
    heads = fitted_heads(hidden[:5000], scores[:5000], ones[:5000], 1.0)
    quality, std = heads.predict(hidden[5000:])
    assert np.abs(quality - chance[5000:]).mean() < 0.02
    covered = np.abs(quality - chance[5000:]) < 1.96 * std
    assert covered.mean() > 0.8
    same = np.repeat(scores[:, :1], 2, axis=1)
    same[:5000, 1] = scores[rng.permutation(5000), 0]
    noisy = ones.copy()
    noisy[30:5000, 1] = 0.0
    assert (
        chosen_strength(hidden[:5000], same[:5000], noisy[:5000], HeldOut(hidden[5000:], same[5000:], ones[5000:]))
        > 30.0
    )


def test_log_loss_by_hand() -> None:
    quality = np.array([[0.8, 0.5]], dtype=np.float32)
    scores, weights = np.array([[1.0, np.nan]], dtype=np.float32), np.array([[2.0, 0.0]], dtype=np.float32)
    assert log_loss(quality, scores, weights) == pytest.approx(-np.log(0.8), rel=1e-5)


def test_lines_without_slope_are_the_means_and_with_it_recover_the_curve() -> None:
    rng = np.random.default_rng(2)
    similarities = rng.uniform(-1, 1, (4000, 2)).astype(np.float32)
    chance = sigmoid(np.array([0.5, -0.5]) + np.array([3.0, 1.0]) * similarities)
    scores = (rng.random(chance.shape) < chance).astype(np.float32)
    lines = fitted_lines(similarities, scores, np.ones_like(scores), scores.mean(axis=0))
    assert np.abs(lines.predict(similarities)[0] - chance).mean() < 0.02
    nothing = fitted_lines(similarities, scores, np.zeros_like(scores), np.array([0.3, 0.7], dtype=np.float32))
    assert nothing.predict(similarities[:1])[0][0] == pytest.approx([0.3, 0.7], abs=1e-5)


@given(st.integers(0, 1000), st.integers(1, 8))
def test_good_and_bad_arms_do_not_depend_on_their_order_and_never_overlap(seed: int, arms: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 5, (6, arms)) / 4).astype(np.float32)
    good, bad = good_and_bad(scores)
    order = rng.permutation(arms)
    again = good_and_bad(scores[:, order])
    assert np.array_equal(good[:, order], again[0])
    assert np.array_equal(bad[:, order], again[1])
    assert not np.any(good & bad)
    assert not np.any(good & (scores == 0))
    assert not np.any(bad & (scores >= 0.5))


def test_good_and_bad_arms_by_hand() -> None:
    good, bad = good_and_bad(np.array([[1.0, 0.9, 0.8, 0.7, 0.4, 0.2, 0.0], [0, 0, 0, 0, 0, 0, 0]], dtype=np.float32))
    assert good.tolist() == [[True] * 3 + [False] * 4, [False] * 7]
    assert bad.tolist() == [[False] * 4 + [True] * 3, [True] * 7]


def edges(seed: int = 0, rows: int = 40, arms: int = 3, width: int = 6, tasks: int = 2) -> Edges:
    rng = np.random.default_rng(seed)
    tau = rng.dirichlet(np.ones(tasks), rows).astype(np.float32)
    queries = np.hstack([rng.standard_normal((rows, width - tasks)), tau]).astype(np.float32)
    weights = (rng.random((rows, arms)) < 0.6).astype(np.float32)
    scores = np.where(weights > 0, rng.random((rows, arms)), 0.0).astype(np.float32)
    return Edges(queries, tau, scores, np.where(weights > 0, 0.3, 0.0).astype(np.float32), weights)


def test_the_graph_with_gradients_is_the_compiled_graph() -> None:
    graph = edges()
    rng = np.random.default_rng(3)
    start = Maps.initial(6, 2, 0)
    maps = Maps(*((array + 0.1 * rng.standard_normal(array.shape)).astype(np.float32) for array in start))
    pool = float((graph.weights * graph.scores).sum() / graph.weights.sum())
    loss = _loss(as_parameters(maps._asdict()), graph, known(graph, graph.weights, pool), graph.weights)
    assert float(loss.detach()) == pytest.approx(
        log_loss(predicted(graph, graph, maps), graph.scores, graph.weights), abs=1e-4
    )


def test_an_untrained_graph_is_the_table_of_tasks() -> None:
    graph = edges()
    nodes = llm_nodes(graph, Maps.initial(6, 2, 0))
    assert not nodes.vectors.any()
    assert nodes.biases == pytest.approx(nodes.levels)


def only(outcomes: Outcomes, arms: list[int], rows: slice = slice(None)) -> Outcomes:
    return replace(
        outcomes,
        vectors=outcomes.vectors[rows],
        arms=tuple(outcomes.arms[arm] for arm in arms),
        quality=outcomes.quality[rows, arms],
        cost_usd=outcomes.cost_usd[rows, arms],
        latency_s=outcomes.latency_s[rows, arms],
        propensity=outcomes.propensity[rows, arms],
        query_ids=outcomes.query_ids[rows],
        texts=None,
    )


def test_a_new_arm_gets_a_node_without_training() -> None:
    outcomes = world(rows=1000)
    without = GraphRouter.fit(only(outcomes, [0, 1, 3, 4]))
    grown = without.with_new_arm(only(outcomes, [2], slice(0, 100)))
    assert grown.arms == ("arm-0", "arm-1", "arm-3", "arm-4", "arm-2")
    prediction, topics = fresh(grown)
    old, _ = fresh(without)
    assert np.array_equal(prediction.quality[:, :4], old.quality)
    expected = skills(5)[topics][:, [0, 1, 3, 4, 2]]
    assert expected[np.arange(300), prediction.quality.argmax(axis=1)].mean() > 0.85
    assert prediction.quality_std[:, 4].mean() > prediction.quality_std[:, 0].mean()
    assert np.median(prediction.cost_usd[:, 4]) == pytest.approx(3e-3, rel=0.2)
    again = GraphRouter.from_arrays(grown.arrays(), json.loads(json.dumps(grown.meta())))
    assert np.array_equal(fresh(again)[0].quality, prediction.quality)


def test_a_new_arm_that_is_none_or_of_another_encoder_is_refused() -> None:
    outcomes = world(rows=100)
    router = GraphRouter.fit(only(outcomes, [0, 1]), steps=10)
    with pytest.raises(TrainingError, match="one new arm"):
        router.with_new_arm(only(outcomes, [1]))
    with pytest.raises(TrainingError, match="one new arm"):
        router.with_new_arm(only(outcomes, [2, 3]))
    with pytest.raises(TrainingError, match="expected 0123456789abcdef"):
        router.with_new_arm(replace(only(outcomes, [2]), encoder="ff"))


def backbone(seed: int = 0) -> Backbone:
    texts = topic_texts(np.arange(200) % TOPICS, seed)
    made = small_backbone(texts, longest=24, layers=2, width=64, seed=seed)
    rng = np.random.default_rng(seed)
    shaken = {name: (a + 0.05 * rng.standard_normal(a.shape)).astype(np.float32) for name, a in made.arrays.items()}
    return made._replace(arrays=shaken)


def test_the_encoder_in_numpy_is_the_one_with_gradients() -> None:
    torch, made = torch_module(), backbone()
    ids, mask = made.tokens.padded([made.tokens.rows((text,), 24) for text in ("solve the integral", "a king")])
    with torch.no_grad():
        theirs = encoded_with_gradients(
            as_parameters(made.arrays), made.shape, torch.from_numpy(ids), torch.from_numpy(mask)
        ).numpy()
    assert encoded(made.arrays, made.shape, ids, mask) == pytest.approx(theirs, abs=1e-4)


def test_padding_never_changes_a_text() -> None:
    made = backbone()
    rows = made.tokens.rows(("a short one",), 24)
    ids, mask = made.tokens.padded([rows, made.tokens.rows(("the integral of what is in the matrix " * 4,), 24)])
    alone = encoded(made.arrays, made.shape, *made.tokens.padded([rows]))[0]
    assert encoded(made.arrays, made.shape, ids, mask)[0] == pytest.approx(alone, abs=1e-5)
    ids[0, len(rows) :] = made.tokens.end
    assert encoded(made.arrays, made.shape, ids, mask)[0] == pytest.approx(alone, abs=1e-5)


def test_a_long_text_keeps_its_two_ends() -> None:
    tokens = Tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"])
    assert tokens.rows(("a b c d e f g h i j",), 8) == [2, 4, 5, 6, 11, 12, 13, 3]
    assert tokens.rows(("a b", "c"), 8) == [2, 4, 5, 3, 6, 3]
    assert tokens.rows(("?",), 8) == [2, 1, 3]
    assert Tokens.from_arrays(tokens.arrays()).spellings == tokens.spellings


def test_text_decides_neighbours_do_not_and_no_text_is_typical() -> None:
    outcomes = world(rows=300)
    router = BertRouter.fit(outcomes, **SMALL["bert"])
    texts = ["solve the prime theorem", None, "  ", "river king " * 20]
    batch = router.predict_batch(outcomes.vectors[:4], None, texts)
    for row, text in enumerate(texts):
        assert router.predict(outcomes.vectors[row], None, text).quality == pytest.approx(batch.quality[row], abs=1e-5)
    assert np.array_equal(batch.quality[1], batch.quality[2])
    assert batch.quality[1] == pytest.approx(outcomes.quality.mean(axis=0), abs=0.03)
    again = BertRouter.from_arrays(router.arrays(), json.loads(json.dumps(router.meta())))
    assert np.array_equal(again.predict_batch(outcomes.vectors[:4], None, texts).quality, batch.quality)


@pytest.mark.parametrize("texts", [None, (None,) * 300, (" ",) * 300])
def test_without_texts_there_is_nothing_to_read(texts: tuple[str | None, ...] | None) -> None:
    with pytest.raises(TrainingError, match="log query texts"):
        BertRouter.fit(replace(world(rows=300), texts=texts))


def test_queries_without_text_are_left_out_of_the_reading() -> None:
    outcomes = world(rows=300)
    texts = tuple(None if row % 3 == 0 else text for row, text in enumerate(outcomes.texts or ()))
    router = BertRouter.fit(replace(outcomes, texts=texts), **SMALL["bert"])
    assert np.all(np.isfinite(router.predict(outcomes.vectors[0], None, "a poem").quality))


def tiny_bert(folder: Path, **changes: Any) -> str:
    """A BERT model of the transformers library with random weights, and its tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    torch_module().manual_seed(0)
    spellings = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "aeiou"),
    ]
    (folder / "vocab.txt").write_text("\n".join(spellings))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=len(spellings), max_position_embeddings=40, **sizes | changes)
    transformers.BertModel(config).eval().save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    return str(folder)


def test_a_named_backbone_reads_as_its_own_library_does(tmp_path: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), torch_module()
    made = named_backbone(tiny_bert(tmp_path), 32, 0)
    rows = made.tokens.rows(("A be i o",), 32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("A be i o")["input_ids"] == rows
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        mean = model(torch.tensor([rows])).last_hidden_state.mean(dim=1).numpy()
    expected = np.tanh(mean @ made.arrays["pool"] + made.arrays["pool_bias"])
    assert pooled(made, ["A be i o"]) == pytest.approx(expected, abs=1e-4)
    router = BertRouter.fit(world(rows=200), backbone=str(tmp_path), epochs=1, tokens=16)
    assert np.all(np.isfinite(router.predict(np.zeros(32, dtype=np.float32), None, "a bee").quality))


def test_a_backbone_that_would_not_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="expected an uncased BERT with gelu"):
        named_backbone(tiny_bert(tmp_path, hidden_act="relu"), 32, 0)
    with pytest.raises(TrainingError, match="cannot be loaded"):
        named_backbone(str(tmp_path / "nothing"), 32, 0)


@pytest.mark.slow
def test_minilm_is_a_backbone() -> None:
    try:
        router = BertRouter.fit(world(rows=200), backbone="minilm", epochs=2, tokens=24)
    except (TrainingError, EncoderUnavailable) as error:
        pytest.skip(str(error))
    assert accuracy(router) > 0.8
    assert router.backbone.shape == Shape(6, 384, 12, 1536, 24, 48)


def test_predicting_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom routers.catalogue import ROUTERS\n"
        f"[ROUTERS[name] for name in {[*NEURAL, 'published-mlp', 'published-bert', 'published-graphrouter']!r}]\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_expense_of_one_arm_more_keeps_the_others() -> None:
    outcomes = world(rows=300)
    router = GraphRouter.fit(only(outcomes, [0, 1]), steps=10)
    grown = router.with_new_arm(only(outcomes, [2]))
    assert isinstance(grown.standing.expense, Expense)
    old, new = router.predict_batch(outcomes.vectors[:5]), grown.predict_batch(outcomes.vectors[:5])
    assert new.cost_usd[:, :2] == pytest.approx(old.cost_usd, rel=1e-6)
    assert np.all(np.isnan(new.latency_s))
