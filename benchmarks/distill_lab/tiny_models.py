"""Language models of a quarter of a million parameters over bytes, and four domains of real text for them."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from offline.distill.fuse import FUSED, fuse
from offline.distill.prepare import prepare
from offline.distill.recipe import DataRecipe, Recipe, TargetRecipe, TeacherRecipe
from offline.distill.training import TrainingSettings

DOMAINS = ("exams", "code", "maths", "puzzles")
NOISY = "noisy"
"""A source that was trained on the same bytes in random order: it knows nothing."""
PROMPT = 12
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is. Windows are of `window` characters; counts are for each domain."""

    hidden: int = 96
    layers: int = 2
    window: int = 120
    teacher_windows: int = 1_800
    base_windows: int = 300
    target_windows: int = 100
    held_windows: int = 60
    teacher_steps: int = 350
    base_steps: int = 120
    fusion_steps: int = 70
    batch: int = 8

    @property
    def length(self) -> int:
        """Tokens of a block: a window of any domain fits, at four bytes for some characters."""
        return 2 * self.window


def write_texts(data: Path, folder: Path, scale: Scale) -> None:
    """Windows as conversations: `<domain>.jsonl` and `noisy.jsonl` for sources, `base.jsonl`, `target.jsonl` and
    `held.jsonl`. None is in two files but the noisy ones."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[tuple[str, str]]] = {"base": [], "target": [], "held": []}
    for domain in DOMAINS:
        windows = _windows(_texts(domain, data), scale.window)
        Random(domain).shuffle(windows)
        for part, count in (
            ("held", scale.held_windows), ("target", scale.target_windows), ("base", scale.base_windows),
        ):  # fmt: skip
            parts[part] += [(domain, windows.pop()) for _ in range(count)]
        parts[domain] = [(domain, text) for text in windows[: scale.teacher_windows]]
    parts[NOISY] = [
        (NOISY, "".join(Random(number).sample(text, len(text)))) for number, (_, text) in enumerate(parts["base"])
    ]
    for name, rows in parts.items():
        lines = [_line(f"{name}-{number}", domain, text) for number, (domain, text) in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def _line(name: str, domain: str, text: str) -> str:
    messages = [{"role": "user", "content": text[:PROMPT]}, {"role": "assistant", "content": text[PROMPT:]}]
    return json.dumps({"id": name, "domain": domain, "messages": messages}) + "\n"


def _windows(texts: Iterator[str], size: int) -> list[str]:
    """Pieces of `size` characters; those with much beyond ASCII, which would not fit a block, are left out."""
    cut = (text[at : at + size] for text in texts for at in range(0, len(text) - size + 1, size))
    return [piece for piece in cut if len(piece.encode()) < 1.5 * size and piece[PROMPT:].strip()]


def _texts(domain: str, data: Path) -> Iterator[str]:
    import pyarrow.parquet as parquet

    if domain == "code":
        library = Path(sysconfig.get_paths()["stdlib"])
        for path in sorted(library.glob("*.py")):
            yield path.read_text(encoding="utf-8")
        return
    file = "mmlu_pro.parquet" if domain == "exams" else "zeroeval.parquet"
    table = parquet.read_table(data / file, columns=["task", "query_id", "query"]).to_pydict()
    wanted = {"exams": "mmlu_pro", "maths": "gsm8k", "puzzles": "zebralogic"}[domain]
    seen: set[str] = set()
    for task, asked, text in zip(table["task"], table["query_id"], table["query"], strict=True):
        if asked not in seen and task.startswith(wanted):
            seen.add(asked)
            yield text


def write_blank(folder: Path, scale: Scale, seed: int) -> Path:
    """A model of random weights over bytes, with its tokenizer and a chat template that adds nothing."""
    import torch
    import transformers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "<end>"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    chat = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")
    chat.chat_template = _TEMPLATE
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=scale.hidden, intermediate_size=3 * scale.hidden,
            num_hidden_layers=scale.layers, num_attention_heads=max(scale.hidden // 32, 1),
            num_key_value_heads=max(scale.hidden // 32, 1), max_position_embeddings=scale.length,
            tie_word_embeddings=True, eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
            bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(str(folder))
    chat.save_pretrained(str(folder))
    return folder


def recipe(
    target: Path, train: Path, output: Path, teachers: Sequence[tuple[str, Path]], scale: Scale, *, steps: int,
    seed: int, mix: float = 0.0, learning_rate: float = 1e-3,
) -> Recipe:  # fmt: skip
    """As a user would write it; the held-out windows are the same for all."""
    return Recipe(
        target=TargetRecipe(name=target.name, model=target),
        data=DataRecipe(train=train, holdout=train.parent / "held.jsonl"),
        output=output,
        training=TrainingSettings(
            steps=steps, batch=scale.batch, length=scale.length, learning_rate=learning_rate, mix=mix, mix_warmup=10,
            warmup=10, seed=seed, checkpoint_every=steps,
        ),
        teachers=tuple(
            TeacherRecipe(name=name, kind="local", licence_allows_training=True, model=model)
            for name, model in teachers
        ),
    )  # fmt: skip


def trained(blank: Path, texts: Path, output: Path, scale: Scale, *, steps: int, seed: int) -> Path:
    """The folder of a model trained from `blank` on a file of windows; not trained again if it is there."""
    finished = output / FUSED / "weights"
    if not finished.exists():
        made = recipe(blank, texts, output, (), scale, steps=steps, seed=seed, learning_rate=3e-3)
        fuse(made, prepare(made), method="none")
    return finished
