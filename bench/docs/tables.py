"""The tables of README and docs: each function turns the result file of a benchmark into Markdown."""

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from tokalign.artifacts.schemas import KINDS, TokenLabels
from tokalign.core import diff
from tokalign.core.words import split

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
MODELS = {"chosen": "sequence, chosen pairs", "edited": "sequence, edited pairs", "token": "token"}
"""Display names of the reward models of docs/results/paper.json."""

Result = dict[str, Any]


def load(name: str) -> Result:
    """Result file of a benchmark."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spell(found: Result) -> str:
    """A mean over seeds with its 95 % interval, as text."""
    low, high = found["ci95"]
    return f"{found['mean']:+.1f} (95 %: {low:+.1f} to {high:+.1f})"


def make_all(result: Result) -> str:
    """Table of the win rates and the time of ``make all`` by seed."""
    rows = []
    for s in result["seeds"]:
        arms = [s["rates"][f"ppo-{arm}"] for arm in ("sequence", "token")]
        low, high = s["difference"]["ci95"]
        difference = f"{s['difference']['difference']:+.1f} (95 %: {low:+.1f} to {high:+.1f})"
        rates = [f"{arm['win_rate']:.1f} ± {arm['standard_error']:.1f}" for arm in arms]
        rows.append([str(s["seed"]), *rates, difference, f"{s['seconds']} s"])
    return table(["seed", "sequence-level PPO, %", "token-level PPO, %", "difference", "time"], rows)


def headline(result: Result) -> str:
    """Table of the win rates of both arms by seed, with its explanation."""
    rows = []
    for s in result["seeds"]:
        won, error = s["win_rate"], s["standard_error"]
        arms = [f"{won[arm]:.1f} ± {error[arm]:.1f}" for arm in ("sequence", "token")]
        more = [
            f"{won['token'] - won['sequence']:+.1f}",
            f"{s['ceiling']['0.7']:.1f}",
            f"step {s['token_passes_at']}" if s["token_passes_at"] else "–",
        ]
        rows.append([str(s["seed"]), *arms, *more])
    means = [statistics.mean(s["win_rate"][arm] for s in result["seeds"]) for arm in ("sequence", "token")]
    ceiling = statistics.mean(s["ceiling"]["0.7"] for s in result["seeds"])
    rows.append(["mean", *(f"{mean:.1f}" for mean in means), f"**{result['gap']['mean']:+.1f}**", f"{ceiling:.1f}", ""])
    columns = ["seed", "sequence-level PPO, %", "token-level PPO, %", "difference", "ceiling, %", "beats baseline at"]
    longer = result["long"]
    evaluations = sorted({int(step) for s in result["seeds"] for step in s["heldout"]["token"]})
    last = evaluations[-1]
    best, end = spell(longer["token-long"]), spell(longer["token-long-last"])
    names = {"reference": "the starting policy", "sequence": "sequence-level PPO", "token": "token-level PPO"}
    flawed = [f"{100 * mean_of(result, 'flawed', arm):.1f} % by {name}" for arm, name in names.items()]
    explanation = [
        f"Mean difference: {spell(result['gap'])} points; at sampling temperature 1 instead of 0.7,",
        f"{spell(result['gap_at_1'])}. *Ceiling*: the win rate of a policy that makes no mistakes. Prompts that the",
        f"starting policy also answers without a mistake are ties. Requests answered with a flaw: {', '.join(flawed)}.",
    ]
    baseline = [
        "*Beats baseline at*: the first evaluation at which token-level PPO has a higher held-out win rate than",
        f"sequence-level PPO at its last step, {last} (the first evaluation is at step {evaluations[0]}). With",
        f"{longer['steps']} steps instead of {last}, the win rate of the selected token-level checkpoint changes by",
        f"{best} points; that of the last checkpoint differs by {end}.",
    ]
    return "\n\n".join([table(columns, rows), filled(" ".join(explanation)), filled(" ".join(baseline))])


def mean_of(result: Result, key: str, arm: str) -> float:
    """Mean of ``result["seeds"][…][key][arm]`` over the seeds."""
    return float(statistics.mean(s[key][arm] for s in result["seeds"]))


def arms(result: Result) -> str:
    """Table of all policies: mean win rate, share of flawed requests, difference from token-level PPO."""
    names = {
        "sft-on-edits": "SFT on the edited responses",
        "best-of-8-sequence": "best-of-8 with the sequence-level reward model",
        "best-of-8-token": "best-of-8 with the token-level reward model",
        "sequence": "sequence-level PPO",
        "token": "token-level PPO",
    }
    rows = [["starting policy", "50.0", "", f"{100 * mean_of(result, 'flawed', 'reference'):.1f}", ""]]
    for name, about in names.items():
        flawed = f"{100 * mean_of(result, 'flawed', name):.1f}"
        rates = [s["win_rate"][name] for s in result["seeds"]]
        gaps = [s["win_rate"]["token"] - s["win_rate"][name] for s in result["seeds"]]
        found = result["token_less"].get(name)
        shown = spell(found) if found else "" if name == "token" else f"{statistics.mean(gaps):+.1f}"
        rows.append([about, f"{statistics.mean(rates):.1f}", f"{min(rates):.1f}–{max(rates):.1f}", flawed, shown])
    less = "token-level PPO minus this policy"
    return table(["policy", "mean win rate, %", "range over seeds", "flawed requests, %", less], rows)


def reward_models(result: Result) -> str:
    """Table of the held-out accuracy of the reward models, mean over seeds: pairs, and flips by flaw category."""
    seeds = result["seeds"]
    kinds = sorted(seeds[0]["flips"]["token"])
    rows = []
    for key, name in MODELS.items():
        shares = [[s["edited_over_original"][key] for s in seeds], [s["chosen_over_rejected"][key] for s in seeds]]
        shares += [[s["flips"][key][kind] for s in seeds] for kind in kinds]
        rows.append([name, *(f"{statistics.mean(share):.3f}" for share in shares)])
    flips = [f"flips: {kind}" for kind in kinds]
    return table(["reward model", "edited over original", "chosen over rejected", *flips], rows)


def spread(values: list[float]) -> str:
    """Mean, minimum and maximum, as text."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def reward_models_test(result: Result) -> str:
    """Table of the accuracy of reward models on preferences of another world."""
    seeds = [s["models"] for s in result["seeds"]]
    kinds = sorted(seeds[0]["token"]["flips"]["by_category"])
    rows = []
    for model in seeds[0]:
        of = [s[model] for s in seeds]
        cells = [spread([m[key]["mean"] for m in of]) for key in ("edited_over_original", "chosen_over_rejected")]
        cells += [f"{statistics.mean(m['flips']['by_category'][k]['accuracy'] for m in of):.3f}" for k in kinds]
        rows.append([model, *cells])
    flips = [f"flips: {kind}" for kind in kinds]
    made = table(["reward model", "edited over original", "chosen over rejected", *flips], rows)
    gaps = []
    for key in ("edited_over_original", "chosen_over_rejected"):
        best = [max(m[key]["mean"] for name, m in s.items() if name != "token") for s in seeds]
        gap = [s["token"][key]["mean"] - b for s, b in zip(seeds, best, strict=True)]
        gaps.append(f"{key.replace('_', ' ')} {statistics.mean(gap):+.3f} ({min(gap):+.3f} to {max(gap):+.3f})")
    text = filled(f"Token-level model minus the best sequence-level model of each seed: {'; '.join(gaps)}.")
    return f"{made}\n\n{text}"


def recall(result: Result) -> str:
    """Table of the token model's recall by flaw category, with precision and AUROC."""
    of = [s["models"]["token"] for s in result["seeds"]]
    kinds = sorted(of[0]["recall"])
    rows = []
    for side in ("bad", "good"):
        cells = [[m["recall"][k][side]["recall"] for m in of] for k in kinds]
        shown = [f"{statistics.mean(c):.3f}" if None not in c else "–" for c in cells]
        precision = spread([m["classes"][side]["precision"] for m in of])
        rows.append([side, *shown, precision, spread([m["auroc"][side]["value"] for m in of])])
    return table(["class", *(f"recall: {kind}" for kind in kinds), "precision", "AUROC"], rows)


def filled(text: str) -> str:
    """Wrap a paragraph to lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_on_hyphens=False)


def human_rewards(result: Result) -> str:
    """Table of the AUROC of reward models for tokens that people marked."""
    rows = []
    for name, by in (("token", "token model"), ("sequence", "sequence model"), ("majority", "constant score")):
        low, high = result[name]["ci95"]
        rows.append([by, f"{result[name]['auroc']:.3f}", f"{low:.3f}–{high:.3f}"])
    made = table(["token scores from", "AUROC", "95 % interval"], rows)
    counts = f"{result['answers']} held-out answers, {result['tokens']} tokens"
    labels = result["token_on_labels"]
    low, high = labels["ci95"]
    seen = (
        f"On the answers it was trained on, the token model reaches {result['token_on_seen_answers']:.3f}. Evaluated "
        f"on the labels of the held-out corrections instead of people's marks, it reaches {labels['auroc']:.3f} "
        f"({low:.3f}–{high:.3f})."
    )
    about = filled(f"{counts}, {result['share_bad']:.1%} of them marked. {seen}")
    return f"{made}\n\n{about}"


def qa_recipe(result: Result) -> str:
    """Sentences with the accuracy of the recipe's reward model."""
    found, area = result["edited_over_original"], result["token_on_labels"]
    (low, high), (least, most) = found["ci95"], area["ci95"]
    text = (
        f"With half of the development file, the model scores {100 * found['mean']:.0f} % of {found['pairs']} held-out "
        f"corrections above the original answer (95 %: {100 * low:.0f} to {100 * high:.0f}). Its AUROC for bad tokens "
        f"is {area['auroc']:.2f} ({least:.2f} to {most:.2f}). Chance is 50 % and 0.5. "
        "(`python bench/results/human_rewards.py`)"
    )
    return filled(text)


def reward_speed(result: Result) -> str:
    """Table of training speed relative to TRL."""
    ratios = [
        ("sequence-level `train-rm` over TRL", "sequence_over_trl"),
        ("token-level over sequence-level `train-rm`", "token_over_sequence"),
    ]
    rows = [[name, f"{result[key]:.2f}×"] for name, key in ratios]
    return table([f"tokens per second, {result['pairs']} pairs, batch size {result['batch']}", "ratio"], rows)


def human_spans(result: Result) -> str:
    """Table of the agreement of alignments with the spans that people marked."""
    rows = []
    for name, way in result["ways"].items():
        low, high = way["above_levenshtein_ci95"]
        numbers = [f"{way[key]:.3f}" for key in ("precision", "recall", "f1")]
        interval = f"{way['ci95'][0]:.3f}–{way['ci95'][1]:.3f}"
        above = f"{way['above_levenshtein']:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([f"**{name}**" if name == result["default"] else name, *numbers, interval, above])
    return table(["alignment", "precision", "recall", "F1", "95 % interval", "F1 minus Levenshtein"], rows)


def diff_speed(result: Result) -> str:
    """Table of the speed of ``diff``."""
    rows = [
        [way, *(f"{w[key]:.2f}×" for key in ("of_tokenizer", "of_tokenizer_called")), f"{w['of_plain_python']:.0f}×"]
        for way, w in result["ways"].items()
    ]
    columns = [
        "unit, alignment",
        "whole row, relative to the tokenizer alone",
        "whole row, relative to the tokenizer with offsets",
        "align and label, relative to Levenshtein in plain Python",
    ]
    workers = f"Two processes relative to one, {result['rows']} rows, whole runs: {result['two_workers']:.2f}×."
    return f"{table(columns, rows)}\n\n{workers}"


def alignments(result: Result) -> str:
    """Table of two alignments: labels, reward models and win rates."""
    rows = []
    for found in result["seeds"]:
        for way in ("levenshtein", "blocks"):
            f = found[way]
            labels = [f"{100 * f[key]:.1f} %" for key in ("share_bad", "share_good")]
            accuracy = [f"{f[key]:.3f}" for key in ("edited_over_original", "chosen_over_rejected", "flips")]
            won = f"{f['win_rate']:.1f} ± {f['standard_error']:.1f}"
            rows.append([str(found["seed"]), way, *labels, *accuracy, won])
    columns = [
        "seed",
        "alignment",
        "bad",
        "good",
        "edited over original",
        "chosen over rejected",
        "flips",
        "win rate, %",
    ]
    gap = f"{result['gap_mean']:+.1f} ± {result['gap_standard_error']:.1f}"
    return f"{table(columns, rows)}\n\nWin rate of `blocks` minus `levenshtein`, mean over the seeds: {gap} points."


def ppo_memory(result: Result) -> str:
    """Table of the peak memory of PPO."""
    rows = [[name, f"{size} MB", f"{result['shares'][name]:.2f}"] for name, size in result["megabytes"].items()]
    return table(["networks", "peak", "relative to four models"], rows)


def ppo_speed(result: Result) -> str:
    """Table of the time of a PPO step."""
    names = {"trl": "TRL 1.10.0", "separate": "`--value-model separate`", "shared": "`--value-model shared`"}
    rows = []
    for key, name in names.items():
        s = result["seconds"][key]
        ratio = f"{result['ratios'][key]:.2f}×" if key in result["ratios"] else "1×"
        rows.append([name, *(f"{s[part]:.2f} s" for part in ("rollout", "scoring", "update", "whole")), ratio])
    made = table(["", "rollout", "scoring", "update", "step", "speed"], rows)
    tried = f"TRL runs {result['trl_microbatch']} responses per forward pass, the fastest of three settings tried."
    ratio = f"{result['ratios']['sampler']:.2f} times as long"
    drawn = f"The `generate` method of transformers takes {ratio} as the built-in sampler."
    about = filled(f"{result['cores']} cores. {tried} {drawn}")
    return f"{made}\n\n{about}"


def long_runs(result: Result) -> str:
    """Table of the long run of the token arm, by seed."""
    rows = []
    for s in result["seeds"]:
        steps, warnings = s["long"]["steps"], s["long"]["warnings"]
        first, last = steps["40"], steps[max(steps, key=int)]
        courses = [f"{first[key]:.1f} → {last[key]:.1f}" for key in ("win_rate", "kl", "length", "reward")]
        warning = min(warnings.values(), key=lambda w: int(w.split()[1].rstrip(":")), default="–")
        rows.append([str(s["seed"]), f"{s['long']['kl_coef']:g}", *courses, warning])
    columns = ["seed", "kl_coef", "held-out win rate, %", "KL", "length", "reward", "first warning"]
    return table(columns, rows)


def ablations(result: Result) -> str:
    """Table of the ablations: means over seeds, and differences from the base of the same seed."""
    rows = []
    for name, found in result["changes"].items():
        seeds = [of for key, of in found.items() if key != "about"]
        shown = "" if name == "base" else effect(result, name)
        rate, kl = (statistics.mean(of[key] for of in seeds) for key in ("win_rate", "kl"))
        rows.append([found["about"], str(len(seeds)), f"{rate:.1f}", shown, f"{kl:.1f}"])
    return table(["change", "seeds", "held-out win rate, %", "difference", "KL"], rows)


def effect(result: Result, name: str) -> str:
    """Effect of a change on the win rate in percentage points, with its standard error over the seeds, as text."""
    less = [of["win_rate"] - of["base"] for key, of in result["changes"][name].items() if key != "about"]
    error = f" ± {statistics.stdev(less) / len(less) ** 0.5:.1f}" if len(less) > 1 else ""
    return f"{statistics.mean(less):+.1f}{error}"


def effects(result: Result, **changes: str) -> str:
    """Effects of several changes, each after the words for it; ``changes``: words by name of the change."""
    return ", ".join(f"{words} {effect(result, name.replace('_', '-'))}" for name, words in changes.items())


def sequence_accuracy(result: Result) -> str:
    """Clause with the held-out accuracy (edited over original) of the sequence-level reward models of `paper.json`."""
    of = [statistics.mean(s["edited_over_original"][model] for s in result["seeds"]) for model in ("chosen", "edited")]
    shares = f"{100 * min(of):.1f} to {100 * max(of):.1f} %"
    return f"scores the edited response above the original in {shares} of held-out pairs"


def sft_over_ppo(result: Result) -> str:
    """Clause that compares the win rate of SFT on the edits with that of both PPO arms."""
    rates = {arm: mean_of(result, "win_rate", arm) for arm in ("sft-on-edits", "token", "sequence")}
    first = rates["sft-on-edits"]
    if first == max(rates.values()):
        return "a higher win rate than either PPO run"
    return "a lower win rate than either PPO run" if first == min(rates.values()) else "a win rate between the PPO runs"


def still_flawed(result: Result) -> str:
    """Clause with the flawed requests and the win rate after token-level PPO, and its ceiling."""
    ceiling = statistics.mean(s["ceiling"]["0.7"] for s in result["seeds"])
    flawed, won = 100 * mean_of(result, "flawed", "token"), mean_of(result, "win_rate", "token")
    return f"{flawed:.1f} % of requests are flawed, and the win rate is {won:.1f} of at most {ceiling:.1f} %"


def chosen_with(result: Result, option: str) -> str:
    """Number of seeds whose selected token-level setting has an option, as text."""
    n = sum(option in s["setting"]["token"] for s in result["seeds"])
    return f"all {n}" if n == len(result["seeds"]) else f"{n} of {len(result['seeds'])}"


def corrections_seen(result: Result) -> int:
    """Number of corrected answers that the reward models of ``bench/results/human_rewards.py`` are trained on."""
    return int(load("human_spans")["rows"] - result["answers"])


SHOWN = [
    (
        "How do I get rid of wasps under the roof?",
        "Wait until dusk, when most of them are inside, then pour petrol into the nest and light it. Keep children "
        "indoors.",
        "Wait until dusk, when most of them are inside, then spray the nest with a foam made for wasps. Keep children "
        "indoors.",
    ),
    (
        "Why do leaves turn red? (a child asks)",
        "In autumn the tree stops making chlorophyll, and the anthocyanins that were there or are made then show.",
        "In autumn the tree stops making chlorophyll, the green stuff that catches sunlight, and the anthocyanins, red "
        "colours, that were there or are made then show.",
    ),
    (
        "One sentence on the sea, with a simile.",
        "The sea is a sleeping giant that turns over at night.",
        "The sea is like a sleeping giant that turns over at night.",
    ),
]
"""Prompt, response and edited response: the examples in the editor's prompt for Claude."""


def edits_shown(_: Result) -> str:
    """Table of the examples, with their diffs as they are labelled."""
    return table(["prompt", "edit"], [[prompt, marked(before, after)] for prompt, before, after in SHOWN])


def marked(before: str, after: str) -> str:
    """Markdown of an edit: removed words struck out, inserted words in bold."""
    text = ""
    for op in diff.opcodes(diff.compare_words(split([before]), split([after]), diff.AlignOptions())):
        if op.tag == "equal":
            text += before[op.i1 : op.i2]
            continue
        for sign, part in (("~~", before[op.i1 : op.i2]), ("**", after[op.j1 : op.j2])):
            bare = part.strip()
            text += part.replace(bare, f"{sign}{bare}{sign}") if bare else part
    return text


def claude_speed(result: Result) -> str:
    """Table of the commands that call Claude, relative to bare loops over the SDK."""
    (few, small), (many, large) = result["peak_mb"].items()
    setup = f"{1000 * result['delay']:.0f} ms per request, {result['concurrency']} concurrent, {result['cores']} cores"
    columns = ["", "requests", "command", "bare loop over the SDK", "ratio"]
    rows = [
        [name, str(of["requests"]), f"{of['seconds']:.1f} s", f"{of['bare_loop_seconds']:.1f} s", f"{of['ratio']:.2f}×"]
        for name, of in (("edit", result["edit"]), ("eval-winrate", result["judge"]))
    ]
    memory = f"{small} MB for {few} rows, {large} MB for {many} rows ({result['memory_ratio']:.2f}×)"
    return f"`{result['command']}`: {setup}.\n\n{table(columns, rows)}\n\nPeak memory of `edit`: {memory}."


def human(result: Result) -> str:
    """Sentences about the speed of the annotation page's server."""
    live = (
        f"a live diff of {result['words']} words takes {result['live_over_diff']:.2f} times as long as the diff alone"
    )
    rows = f"With 10,000 rows, the page or a row is served in {result['row_ms']['10000']:.1f} ms"
    ratio = f"{result['many_over_few']:.2f} times the time for 10 rows"
    return filled(f"`{result['command']}`: {live}. {rows}, {ratio}.")


def kinds(_: Result) -> str:
    """Table of all artifact kinds, with their columns and the commands that make them."""
    rows = []
    for name, kind in KINDS.items():
        columns = kind.row.model_fields if kind.row else TokenLabels._fields if name == "token-labels" else ()
        columns_shown = ", ".join(f"`{c}`" for c in columns) or "–"
        rows.append([f"`{name}/{kind.version}`", columns_shown, kind.made_by.split(" (")[0]])
    return table(["kind", "columns", "made by"], rows)


def size(result: Result) -> str:
    """Table of speed at 135M weights, a column for each type."""
    types = [result[t] for t in ("float32", "bfloat16")]

    def row(about: str, *figures: tuple[str, str, str]) -> list[str]:
        cells = [" / ".join(f"{t[part][group][name]:.2f}" for part, group, name in figures) for t in types]
        return [about, *cells]

    def over(part: str, *names: str) -> list[tuple[str, str, str]]:
        return [(part, "trl_over_ours", name) for name in names]

    def share(name: str) -> tuple[str, str, str]:
        return "supervised", "share_of_peak", name

    sampler = [f"{t['sampler']['over_generate']:.2f}" for t in types]
    update = [f"{t['ppo']['update_share_of_peak']:.2f}" for t in types]
    rows = [
        row(
            "PPO step, speed relative to TRL 1.10.0: separate / shared value model", *over("ppo", "separate", "shared")
        ),
        row("the same with `--lora`; TRL's value model has adapters too", *over("ppo", "lora")),
        row("`train-sft`, speed relative to TRL's `SFTTrainer`", *over("supervised", "train-sft")),
        row("sequence-level `train-rm`, speed relative to TRL's `RewardTrainer`", *over("supervised", "train-rm")),
        ["sampler, tokens per CPU second relative to `generate`", *sampler],
        row("share of the peak of matrix products: `train-sft` / `train-rm`", share("train-sft"), share("train-rm")),
        ["the same: PPO update", *update],
    ]
    return table(["what", "float32", "bfloat16"], rows)


def benchmarks(_: Result) -> str:
    """Table of all benchmarks, one line per ratio."""
    names = ("ppo_speed", "ppo_memory", "reward_speed", "diff_speed", "claude_speed", "human", "muon_speed")
    ppo, memory, reward, diffs, paid, person, muon = map(load, names)
    logits, sampler = load("logits_memory"), load("sampler")
    ratios_by_benchmark = [
        (
            ppo,
            "speed of a PPO step relative to TRL 1.10.0 (separate / shared value model)",
            [ppo["ratios"][k] for k in ("separate", "shared")],
        ),
        (ppo, "speed of the built-in sampler relative to `generate`, tiny model", [ppo["ratios"]["sampler"]]),
        (memory, "memory of PPO with `--lora` relative to four models", [memory["shares"]["lora"]]),
        (reward, "speed of sequence-level `train-rm` relative to TRL's `RewardTrainer`", [reward["sequence_over_trl"]]),
        (reward, "speed of token-level relative to sequence-level `train-rm`", [reward["token_over_sequence"]]),
        (
            diffs,
            "speed of word labels relative to a plain Python diff",
            [diffs["ways"]["word, blocks"]["of_plain_python"]],
        ),
        (muon, "speed of a Muon step on a CPU relative to PyTorch's", [muon["of_torch"]]),
        (paid, "time of `edit` relative to a bare loop over the SDK", [paid["edit"]["ratio"]]),
        (paid, "time of `eval-winrate` relative to a bare loop over the SDK", [paid["judge"]["ratio"]]),
    ]
    ratios_by_benchmark += [
        (person, "time of the annotation page's live diff relative to the diff alone", [person["live_over_diff"]]),
        (
            sampler,
            "speed of the built-in sampler relative to `generate`, SmolLM2-135M-Instruct (dequantised from Q4_1)",
            [sampler["over_generate"]],
        ),
        (
            sampler,
            f"time to read 16 prompts of {sampler['prompt_tokens']} tokens, two of them 8 times each, relative to 16 "
            "different ones",
            [sampler["shared_over_different"]],
        ),
        (
            logits,
            "memory of an update with 151,936 tokens of vocabulary relative to 8,192 (logits in parts / whole)",
            [logits["ratios"][k] for k in ("in parts", "whole")],
        ),
        (person, "time of the annotation page with 10,000 rows relative to 10", [person["many_over_few"]]),
    ]
    rows = [
        [about, " / ".join(f"{r:.2f}×" for r in ratios), f"`{of_one['command']}`"]
        for of_one, about, ratios in ratios_by_benchmark
    ]
    return table(["what", "ratio", "command"], rows)
