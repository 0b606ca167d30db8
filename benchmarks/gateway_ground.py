"""What the gateway stands on while it is measured: a config with keys, a trained router, templates, the log.

Everything is made from a seed. The upstream is a mock, so what the router has learned does not matter for speed; that
it is a real one, deployed as any other, does.
"""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import numpy as np
import yaml

from encoders.catalogue import load_encoder
from encoders.protocol import Encoder
from registry.artifacts import Artifacts
from registry.config_file import build_pool, parse_config
from routers.catalogue import KIND
from routers.classic.cluster import ClusterRouter
from routers.protocol import Outcomes
from templates_store.create import create_template
from templates_store.store import STORE_FILE, TemplateStore

KEY_VARIABLE = "TOKAMAK_BENCH_KEY"
KEY = "sk-bench-0123456789abcdef"
PINNED = "mock-model"
MODELS = (PINNED, *(f"model-{letter}" for letter in "bcdefgh"))
"""Eight models, five of which are also asked with thought templates: 13 arms."""
THOUGHTFUL = MODELS[:5]
TEMPLATES = 1_000
QUERIES = 2_000
TOPICS = ("flight", "invoice", "matrix", "poem", "protein", "contract", "recipe", "kernel", "orbit", "novel")
TASKS = ("Explain why", "Compute how much", "Write a short note on how", "Compare which", "Decide whether")
WORDS = re.findall(
    r"\w+",
    "the second outbound leg was moved by four hours and the policy lists three options with different costs for each "
    "of them while a careful reader checks every step names the rule that applies keeps the units and rounds at the "
    "end because the answer depends on time money distance and the order in which the parts are added or removed",
)


def queries(count: int, seed: int = 0) -> list[str]:
    """Distinct questions of 12 to 60 words on ten topics."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        filler = " ".join(rng.choices(WORDS, k=rng.randint(8, 54)))
        made.append(f"{rng.choice(TASKS)} {rng.choice(TOPICS)} {index + seed * count} {filler}?")
    return made


def prepare(folder: Path, upstream_url: str, port: int) -> Path:
    """Make the ground anew in `folder` and return its config file; the key is `KEY`, in the variable `KEY_VARIABLE`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {
        "version": 1,
        "server": {"port": port, "admin_port": port + 1, "data_dir": str(folder / "data")},
        "upstreams": {"mock": {"base_url": upstream_url}},
        "models": {
            name: {
                "endpoints": [{"upstream": "mock", "model": PINNED}],
                "ways": ["direct", "thought"] if name in THOUGHTFUL else ["direct"],
                "prices": {"prompt_per_1m": 0.1 * 2**place, "completion_per_1m": 0.4 * 2**place},
                "context_window": 128_000,
            }
            for place, name in enumerate(MODELS)
        },
        "limits": {"keys": [{"id": "bench", "key_env": KEY_VARIABLE}]},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    environ = {KEY_VARIABLE: KEY}
    encoder = load_encoder("static")
    arms = tuple(build_pool(parse_config(path.read_text(), str(path), environ), environ).arms)
    artifacts = Artifacts(folder / "data" / "artifacts")
    router = ClusterRouter.fit(_outcomes(encoder, arms))
    made = artifacts.publish(KIND, router.name, router.arrays(), router.meta())
    artifacts.deploy(KIND, made.version)
    _add_templates(folder / "data" / STORE_FILE, encoder)
    return path


def _outcomes(encoder: Encoder, arms: tuple[str, ...]) -> Outcomes:
    """Full outcomes in which each arm is good at some topics and dearer arms are better."""
    rng = np.random.default_rng(0)
    texts = queries(QUERIES, seed=1)
    topics = np.array([TOPICS.index(text.removeprefix(_task(text)).split()[0]) for text in texts])
    skill = rng.uniform(0.2, 0.9, (len(TOPICS), len(arms)))
    shape = (len(texts), len(arms))
    quality = (rng.uniform(size=shape) < skill[topics]).astype(np.float32)
    cost = (1e-4 * 2.0 ** np.arange(len(arms)) * rng.uniform(0.5, 1.5, shape)).astype(np.float32)
    return Outcomes(
        vectors=encoder.encode(texts),
        arms=arms,
        quality=quality,
        cost_usd=cost,
        latency_s=rng.uniform(0.2, 2.0, shape).astype(np.float32),
        propensity=np.ones(shape, np.float32),
        encoder=encoder.hash,
        query_ids=tuple(f"q{index}" for index in range(len(texts))),
    )


def _task(text: str) -> str:
    return next(task for task in TASKS if text.startswith(task))


def _add_templates(path: Path, encoder: Encoder) -> None:
    plan = "Name the rule that applies. List what is given. Work through the steps in order and check the units."
    with TemplateStore(path) as store:
        store.add_all(
            create_template(encoder, query, f"{plan} Case {index}.", builder="benchmark", created_at=0.0)
            for index, query in enumerate(queries(TEMPLATES, seed=2))
        )
