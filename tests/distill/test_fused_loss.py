"""The sparse loss against the same thing written densely, and what must hold of it."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from offline.distill.fused_loss import TeacherRows, fused_loss, sorted_l1, training_loss  # noqa: E402

N, V, K = 6, 40, 5


def rows(seed: int, k: int = K, whole: bool = False) -> Any:
    """A source that names k of V tokens; `whole` names all of them, so that nothing is left for `other`."""
    made = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(N, V, generator=made, dtype=torch.float64), dim=-1)
    top = p.topk(V if whole else k, dim=-1)
    return TeacherRows(top.indices, top.values, 1 - top.values.sum(-1), torch.ones(N, dtype=torch.bool)), p


def logits(seed: int = 9) -> Any:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(N, V, generator=made, dtype=torch.float64).requires_grad_()


def even(count: int) -> Any:
    return torch.full((N, count), 1.0 / count, dtype=torch.float64)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_with_nothing_left_over_it_is_the_dense_divergence(divergence: Any) -> None:
    source, p = rows(1, whole=True)
    x = logits()
    made = fused_loss(x, x.logsumexp(-1), [source], even(1), divergence)
    log_q = x.log_softmax(-1)
    q, m = log_q.exp(), 0.5 * (p + log_q.exp())
    dense = {
        "forward": -(p * log_q).sum(-1).mean(),
        "reverse": (q * (log_q - p.log())).sum(-1).mean(),
        "jsd": 0.5 * ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)).mean(),
    }[divergence]
    torch.testing.assert_close(made, dense, rtol=1e-6, atol=1e-6)


def test_the_mixture_is_never_needed() -> None:
    sources = [rows(seed, whole=True) for seed in (1, 2, 3)]
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand(N, 3)
    x = logits()
    made = fused_loss(x, x.logsumexp(-1), [source for source, _ in sources], weights)
    mixture = sum(w * p for w, (_, p) in zip((0.2, 0.5, 0.3), sources, strict=True))
    torch.testing.assert_close(made, -(mixture * x.log_softmax(-1)).sum(-1).mean(), rtol=1e-9, atol=1e-9)


def test_a_source_that_is_sure_of_the_label_gives_the_gradient_of_plain_training() -> None:
    labels = torch.arange(N)
    sure = TeacherRows(labels[:, None], torch.ones(N, 1, dtype=torch.float64), torch.zeros(N), torch.ones(N) > 0)
    x, y = logits(), logits()
    training_loss(x, labels, [sure], even(1), mix=1.0).total.backward()
    training_loss(y, labels, [], even(1)[:, :0], mix=0.0).total.backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-9, rtol=0)


def test_the_gradient_vanishes_where_the_target_says_what_the_source_says() -> None:
    source, p = rows(4)
    x = p.log().detach().requires_grad_()
    fused_loss(x, x.logsumexp(-1), [source], even(1)).backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-9, rtol=0)


def test_what_no_source_knows_is_not_taught_and_weights_go_to_those_that_do() -> None:
    (one, _), (two, _) = rows(1), rows(2)
    hidden = TeacherRows(one.ids, one.probs, one.other, torch.zeros(N, dtype=torch.bool))
    x = logits()
    total = x.logsumexp(-1)
    alone = fused_loss(x, total, [two], even(1))
    torch.testing.assert_close(fused_loss(x, total, [hidden, two], even(2)), alone)
    assert fused_loss(x, total, [hidden], even(1)).item() == 0.0


def test_unlabelled_positions_teach_nothing() -> None:
    source, _ = rows(1)
    labels = torch.arange(N)
    labels[2] = -100
    x = logits()
    training_loss(x, labels, [source], even(1), mix=0.5).total.backward()
    assert x.grad is not None
    assert x.grad[2].abs().max() == 0
    assert x.grad[1].abs().max() > 0


def test_a_temperature_softens_both_and_keeps_the_optimum() -> None:
    source, p = rows(4, whole=True)
    x = p.log().detach().requires_grad_()
    fused_loss(x, (x / 2.0).logsumexp(-1), [source], even(1), "forward", 2.0).backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-9, rtol=0)


def test_sorted_l1_is_zero_for_the_same_distribution_and_does_not_see_which_tokens() -> None:
    source, p = rows(4)
    nothing = torch.zeros(N, dtype=torch.float64)
    torch.testing.assert_close(sorted_l1(p.log(), source), nothing, atol=1e-9, rtol=0)
    torch.testing.assert_close(sorted_l1(p.log().roll(1, -1), source), nothing, atol=1e-9, rtol=0)


def test_uld_can_be_chosen_as_the_loss() -> None:
    (one, _), (two, _) = rows(4), rows(5)
    x = logits()
    made = fused_loss(x, x.logsumexp(-1), [one, two], even(2), "uld")
    torch.testing.assert_close(made, (0.5 * sorted_l1(x, one) + 0.5 * sorted_l1(x, two)).mean())
    with pytest.raises(ValueError, match="expected a temperature of 1"):
        training_loss(x, torch.arange(N), [one], even(1), mix=0.5, divergence="uld", temperature=2.0)


@pytest.mark.parametrize(("mix", "temperature", "said"), [(1.5, 1.0, "a mix in"), (0.5, 0.0, "a temperature above 0")])
def test_wrong_settings_are_told(mix: float, temperature: float, said: str) -> None:
    source, _ = rows(1)
    with pytest.raises(ValueError, match=said):
        training_loss(logits(), torch.arange(N), [source], even(1), mix=mix, temperature=temperature)


def test_wrong_shapes_are_told() -> None:
    source, _ = rows(1)
    with pytest.raises(ValueError, match="expected weights of shape"):
        training_loss(logits(), torch.arange(N), [source], even(2), mix=0.5)
    with pytest.raises(ValueError, match="expected labels of shape"):
        training_loss(logits(), torch.arange(N - 1), [source], even(1), mix=0.5)
