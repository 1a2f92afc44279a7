"""What a command says when it ends: what it wrote, where, and what to run next."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.schemas import KINDS
from tokalign.claude.prices import Estimate
from tokalign.config.options import StageOptions
from tokalign.config.stages import EvalWinrateConfig, ReportConfig
from tokalign.core.chance import Finding, against_chance
from tokalign.data.layouts import LAYOUTS
from tokalign.report.text import safe

NEXT = {
    "preferences": ["tokalign edit {path} --editor rules --out EDITS"],
    "edits": ["tokalign show {path}", "tokalign diff {path} --tokenizer MODEL --out LABELS"],
    "token-labels": [
        "tokalign show {path}",
        "tokalign train-rm {path} --model MODEL --level token --out RM",
    ],
    "policy": ["tokalign generate PROMPTS --policy {path} --out RESPONSES"],
    "policy by PPO": [
        "tokalign show {path}",
        "tokalign eval-winrate --prompts TEST --candidate ppo={path} --reference POLICY --out WINRATES",
    ],
    "reward-model": [
        "tokalign show {path}",
        "tokalign train-ppo PROMPTS --policy POLICY --reward-model {path} --granularity {level} --out PPO",
    ],
    "responses": ["tokalign show {path}", "tokalign score {path} --reward-model RM --out REWARDS"],
    "token-rewards": ["tokalign show {path}"],
    "winrates": ["tokalign show {path}"],
}


def written(config: StageOptions, result: Any) -> None:
    """Report one artifact, several below one folder, or a file: JSON on stdout if asked, words on stderr."""
    if isinstance(result, Estimate):
        _estimate(config, result)
        return
    if not isinstance(result, Manifest | dict):
        _file(config, result)
        return
    several = isinstance(result, dict)
    manifests = result if isinstance(result, dict) else {"": result}
    if config.json:
        made = {name: asdict(m) for name, m in manifests.items()}
        print(json.dumps(made if several else made[""], ensure_ascii=False))
    if isinstance(config, EvalWinrateConfig) and config.table_format != "terminal" and not config.json:
        from tokalign.report.winrates import rendered

        print(rendered(manifests[""], config.table_format))
    if config.quiet:
        return
    for name, manifest in manifests.items():
        _say(config.out / name, manifest)
    for name, manifest in list(manifests.items())[:1]:
        kind = "policy by PPO" if "best_step" in manifest.stats and manifest.kind == "policy" else manifest.kind
        for line in _next(kind, manifest):
            level = manifest.stats.get("level", "token")
            path = shlex.quote(safe(str(config.out / name)))
            print("  next: " + line.format(path=path, level=level), file=sys.stderr)


def _file(config: StageOptions, exported: Any) -> None:
    if config.json:
        print(json.dumps(exported._asdict(), ensure_ascii=False))
    if not config.quiet:
        counted = "artifacts" if isinstance(config, ReportConfig) else "rows"
        print(f"{exported.rows} {counted} → {safe(exported.file)}", file=sys.stderr)
        if read := getattr(exported, "read_as", None):
            print(f"  source: read as {layout(read['kind'], read['version'])}", file=sys.stderr)
        for reason, n in exported.skipped.items():
            print(f"  skipped {n}: {safe(reason)}", file=sys.stderr)
        if left := ", ".join(f"{what} ({n} rows)" for what, n in getattr(exported, "left_out", {}).items()):
            print(f"  left out, as the layout does not hold it: {safe(left)}", file=sys.stderr)


def _estimate(config: StageOptions, e: Estimate) -> None:
    if config.json:
        print(json.dumps(e._asdict()))
    if not config.quiet:
        print(f"{e.rows} rows, {e.answered} of them answered already; nothing was asked", file=sys.stderr)
        print(f"  a row: {e.input_tokens} tokens in, {e.output_tokens} out, thoughts left out", file=sys.stderr)
        print(f"  {safe(e.model)}: ${e.low:.2f} to ${e.high:.2f}, ${e.most:.2f} at the very most", file=sys.stderr)
        if e.paid:
            print(f"  ${e.paid:.4f} of that are paid already", file=sys.stderr)


def _say(path: Path, m: Manifest) -> None:
    rows = m.rows
    print(f"{m.kind}/{m.version} → {safe(str(path))}", file=sys.stderr)
    counts = f"{rows.get('in', 0)} rows in, {rows.get('out', 0)} out, {rows.get('skipped', 0)} skipped"
    print(f"  {counts}  ({m.seconds:.1f} s)", file=sys.stderr)
    for line in _layouts(m):
        print(f"  {safe(line)}", file=sys.stderr)
    for reason, n in rows.get("reasons", {}).items():
        print(f"  skipped {n}: {safe(reason)}", file=sys.stderr)
    for line in [*headline(m), *m.stats.get("notes", [])]:
        print(f"  {safe(line)}", file=sys.stderr)


def _layouts(m: Manifest) -> list[str]:
    """How each input that holds rows was read."""
    rows = [i for i in m.inputs if i.get("kind") in LAYOUTS or (i.get("kind") in KINDS and KINDS[i["kind"]].row)]
    return [f"{i['name'].replace('_', ' ')}: read as {layout(i['kind'], i.get('version'))}" for i in rows]


def layout(kind: str, version: int | None) -> str:
    """What an input was taken for: an artifact, rows with our columns, or a layout made elsewhere."""
    if kind in LAYOUTS:
        return f"layout {kind} ({LAYOUTS[kind].columns})"
    return f"{kind}/{version}" if version is not None else f"layout tokalign ({kind})"


def headline(m: Manifest) -> list[str]:
    """The few numbers that matter most of an artifact."""
    s = m.stats
    if m.kind == "edits":
        return _edits(m)
    if m.kind == "token-labels":
        return _labels(s)
    if m.kind == "reward-model":
        return _reward_model(m)
    if m.kind == "policy" and "best_step" in s:
        won = f", win rate on held-out prompts {s['best_win_rate']:.1f} %" if s["best_win_rate"] is not None else ""
        ended = f"; stopped, {s['stopped']}" if s.get("stopped") else ""
        beware = [f"beware, {sign}" for sign in s.get("warnings", {}).values()]
        return [f"kept step {s['best_step']} of {s['steps']}{won}{ended}", *beware]
    if m.kind == "policy":
        loss = "" if s["final_loss"] is None else f", final loss {s['final_loss']:.4f}"
        return [f"{s['weights']} weights, {s['steps']} steps{loss}"]
    if m.kind == "winrates":
        return _win_rates(m)
    return []


def _next(kind: str, m: Manifest) -> list[str]:
    """Commands that could follow: none that would build on what was not learnt or not edited."""
    if m.kind == "edits" and m.unresolved:
        return NEXT[kind][:1]
    if m.kind == "reward-model" and not _against_chance(m).above:
        return NEXT[kind][:1]
    return NEXT.get(kind, [])


def _against_chance(m: Manifest) -> Finding:
    return against_chance(m.stats, str(m.config.get("pairs", "edited")))


def _reward_model(m: Manifest) -> list[str]:
    s = m.stats
    shown = [(name, s[name.replace(" ", "_")]) for name in ("edited over original", "chosen over rejected", "flips")]
    lines = [
        f"held-out accuracy, {name}: {v:.3f} of {d.get('pairs', d.get('edits'))}"
        for name, d in shown
        if (v := d.get("mean", d.get("accuracy"))) is not None
    ]
    found = _against_chance(m)
    if found.above:
        return lines
    lines.append(f"beware, {found.why}")
    if found.above is None:
        return [*lines, "  more rows, or a larger --heldout, would tell; PPO with it may reward at random"]
    return [*lines, "  PPO with it would reward at random: more edits, more passes, a larger model, another --lr?"]


def _edits(m: Manifest) -> list[str]:
    s = m.stats
    lines = [", ".join(f"{n} {name}" for name, n in s["status"].items())]
    if s["similarity_mean"] is not None:
        lines[0] += f"; words kept on average {s['similarity_mean']:.0%}"
    if not s["status"].get("edited"):
        known = "the rules know the playground's texts only; " if m.config.get("editor") == "rules" else ""
        lines.append(f"beware, nothing was edited: {known}there is nothing to label")
    if histogram := s.get("similarity_histogram"):
        lines.append(f"share of words kept  0 |{bars(histogram)}| 1")
    for about, name in (("flaws named", "categories"), ("noted", "reasons")):
        if counts := ", ".join(f"{key} {n}" for key, n in sorted(s[name].items())):
            lines.append(f"{about}: {counts}")
    return lines + _money(m)


def _win_rates(m: Manifest) -> list[str]:
    lines = []
    for name, c in m.stats["candidates"].items():
        if c["win_rate"] is None:
            lines.append(f"{name}: none of {c.get('n_unjudged', 0)} comparisons has a verdict")
            continue
        lines.append(f"{name}: {c['win_rate']:.1f} %{_interval(c, '')} of {c['n_total']}")
        if c.get("n_unjudged"):
            lines[-1] += f"; {c['n_unjudged']} more have no verdict"
        if c.get("agreement") is not None:
            told = f"the judge agrees with itself on {c['agreement']:.0f} %, prefers the first in"
            first, against = c.get("prefers_first") or 0.0, c.get("n_disagreements", 0)
            lines.append(f"  {told} {first:.0f} %; {against} disagreements count as ties")
    for p in m.stats["paired"]:
        lines.append(f"{p['a']} less {p['b']}: {p['difference']:+.1f}{_interval(p, '+')}, p {p['p_value']:.2g}")
    return lines + _money(m)


def _interval(of: Mapping[str, Any], sign: str) -> str:
    if of.get("ci95") is None:  # of an older version
        return ""
    low, high = of["ci95"]
    return f" (95 %: {low:{sign}.1f} to {high:{sign}.1f})"


def _money(m: Manifest) -> list[str]:
    """What was paid, and what is left to do."""
    lines = []
    if u := m.usage:
        lines.append(f"paid ${u.get('usd', 0.0):.4f} for {u.get('answers', 0)} answers, in all runs together")
        if lost := u.get("lost_calls"):
            lines[-1] += f", and perhaps ${u.get('perhaps_usd', 0.0):.4f} for {lost} calls whose outcome is unknown"
    if failed := m.rows.get("failed"):
        lines.append(f"{failed} rows failed; the same command tries them again")
    return lines


def _labels(s: Mapping[str, Any]) -> list[str]:
    shares = ", ".join(f"{s[f'share_{name}']:.1%} {name}" for name in ("bad", "neutral", "good"))
    rows_with = ""
    if by_edits := s.get("rows_by_edits"):
        counts = [f"{n}: {by_edits.get(n, 0)}" for n in ("1", "2", "3")]
        rows_with = f" (rows with {', '.join(counts)}, more: {sum(by_edits[n] for n in by_edits if int(n) > 3)})"
    lines = [
        f"{s['tokens']} tokens: {shares}",
        f"{s['edits_per_row']:.1f} edits a row{rows_with}, {s['unchanged']} rows unchanged",
    ]
    if histogram := s.get("similarity_histogram"):
        lines.append(f"share of words kept  0 |{bars(histogram)}| 1")
    if longest := list(s.get("longest_edits", {}).items())[:3]:
        lines.append("longest edits: " + ", ".join(f"{name} ({n} tokens)" for name, n in longest))
    return lines


def bars(counts: Sequence[int]) -> str:
    """A bar for each count, an eighth of a line high at least where it is not 0."""
    top = max(counts, default=0)
    return "".join(" " if not n else "▁▂▃▄▅▆▇█"[max(0, round(8 * n / top) - 1)] for n in counts)
