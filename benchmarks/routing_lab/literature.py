"""What the papers report, to be read beside our tables: other models, other queries, often chosen on test data."""

from __future__ import annotations

from typing import Final, NamedTuple


class Reported(NamedTuple):
    """Figures of one method in one setting, as they were reported."""

    setting: str
    method: str
    figures: str
    source: str


FUSION: Final = "FusionFactory (arXiv 2507.10540 v1, table 4): quality / cost / reward"
FUSION_SETTING: Final = "FusionBench, 40 candidates, 14 tasks; performance first; balance; cost first"
ROUTERBENCH: Final = "measured for this project on a published split, plain methods on TF-IDF features, one seed"

REPORTED: Final = (
    Reported(FUSION_SETTING, "best LLM", ".546/.185/.546; .556/.0681/.244; .431/.0047/.0823", FUSION),
    Reported(FUSION_SETTING, "KNN", ".558/.0666/.558; .461/.0068/.227; .463/.0067/.0872", FUSION),
    Reported(FUSION_SETTING, "SVM", ".546/.0673/.546; .448/.0084/.220; .442/.0075/.0825", FUSION),
    Reported(FUSION_SETTING, "MLP", ".561/.0652/.561; .482/.0095/.236; .477/.0078/.0884", FUSION),
    Reported(FUSION_SETTING, "BERT", ".528/.103/.528; .387/.0262/.180; .368/.0531/.0310", FUSION),
    Reported(
        FUSION_SETTING,
        "GraphRouter",
        ".602/.0184/.602; .464/.0184/.269 (the reward contradicts its own quality and cost: .223); .496/.0047/.0955",
        FUSION,
    ),
    Reported("MMLU, GSM8K, ARC-C, HumanEval; 7 models", "RouterDC", "61.07, 70.32, 58.52, 51.02", "RouterDC, code"),
    Reported("the same, run again by a user", "RouterDC", "59.45, 69.17, 57.95, 49.79", "RouterDC, issue 6"),
    Reported("LLMRouterBench, 33 models", "Avengers-Pro", "up to +4 % gain, 31.7 % of cost saved", "LLMRouterBench"),
    Reported(
        "RouterArena score",
        "MIRT-BERT, GraphRouter, kNN, RouteLLM, RouterDC",
        "66.89, 57.22, 55.48, 48.07, 33.75",
        "RouterArena, snapshot",
    ),
    Reported(
        "MMLU, GPT-4 and Mixtral: APGR",
        "random, kNN, ridge, ridge and domain, oracle",
        ".48, .656, .662, .691, 1.28",
        ROUTERBENCH,
    ),
    Reported(
        "RouterBench subset, 945 test queries: AIQ",
        "zero router, kNN50, kNN100, ridge, task means",
        ".8226, .8286, .8427, .8459, .8559",
        ROUTERBENCH,
    ),
    Reported(
        "MMLU-Pro, 16 small models",
        "best single, kNN on argmax labels, kNN mean, k-means, oracle",
        ".440, .346, .4735, .4535, .849",
        ROUTERBENCH,
    ),
)
