"""Summary printed at the end of a command: what was written, statistics, and the next commands."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.result import Estimate, StageResult, WrittenFile
from tokalign.artifacts.schemas import KINDS
from tokalign.config.options import Options, StageOptions
from tokalign.config.stages import EvalWinrateConfig, MergeConfig, ReportConfig
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
    "reward-metrics": ["tokalign show {path}"],
    "winrates": ["tokalign show {path}"],
}


def written(config: Options, result: StageResult) -> None:
    """Print the summary of a command to stderr and, with ``--json``, its result to stdout."""
    # show and verify print their results themselves.
    if not isinstance(config, StageOptions | ReportConfig | MergeConfig):
        return
    if config.json and (found := _as_json(result)) is not None:
        print(json.dumps(found, ensure_ascii=False))
    if (
        isinstance(config, EvalWinrateConfig)
        and config.table_format != "terminal"
        and result.manifests
        and not config.json
    ):
        from tokalign.report.winrates import rendered

        print(rendered(result.manifest, config.table_format))
    if config.quiet:
        return
    if result.estimate:
        _print_estimate(result.estimate)
    if result.file:
        _print_file(result.file, "artifacts" if isinstance(config, ReportConfig) else "rows")
    folders = {name: (result.folder or Path()) / name for name in result.manifests}
    for name, manifest in result.manifests.items():
        _print_manifest(folders[name], manifest)
    for name, manifest in list(result.manifests.items())[:1]:
        kind = "policy by PPO" if "best_step" in manifest.stats and manifest.kind == "policy" else manifest.kind
        for line in _next(kind, manifest):
            level = manifest.stats.get("level", "token")
            path = shlex.quote(safe(str(folders[name])))
            print("  next: " + line.format(path=path, level=level), file=sys.stderr)


def _as_json(result: StageResult) -> Any:
    """Return what ``--json`` prints: the manifest, manifests by name, the file or the estimate."""
    if result.estimate:
        return result.estimate._asdict()
    if result.file:
        return {name: value for name, value in result.file._asdict().items() if value is not None}
    manifests = {name: asdict(m) for name, m in result.manifests.items()}
    return manifests.get("", manifests) or None


def _print_file(file: WrittenFile, counted: str) -> None:
    print(f"{file.rows} {counted} → {safe(file.file)}", file=sys.stderr)
    if file.read_as:
        print(f"  source: read as {layout(file.read_as['kind'], file.read_as['version'])}", file=sys.stderr)
    for reason, n in file.skipped.items():
        print(f"  skipped {n}: {safe(reason)}", file=sys.stderr)
    if left := ", ".join(f"{what} ({n} rows)" for what, n in (file.left_out or {}).items()):
        print(f"  left out (not part of the layout): {safe(left)}", file=sys.stderr)


def _print_estimate(e: Estimate) -> None:
    print(f"{e.rows} rows, {e.answered} of them already answered; nothing was billed", file=sys.stderr)
    per_row = f"{e.input_tokens} input tokens, {e.output_tokens} output tokens without thinking"
    print(f"  per row: {per_row}", file=sys.stderr)
    print(f"  {safe(e.model)}: ${e.low:.2f} to ${e.high:.2f}, at most ${e.most:.2f}", file=sys.stderr)
    if e.paid:
        print(f"  of the maximum, ${e.paid:.4f} is already paid", file=sys.stderr)


def _print_manifest(path: Path, m: Manifest) -> None:
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
    """Say how each input with rows was read."""
    rows = [i for i in m.inputs if i.get("kind") in LAYOUTS or (i.get("kind") in KINDS and KINDS[i["kind"]].row)]
    return [f"{i['name'].replace('_', ' ')}: read as {layout(i['kind'], i.get('version'))}" for i in rows]


def layout(kind: str, version: int | None) -> str:
    """Describe how an input was read: as an artifact, as rows with tokalign's columns, or in another layout."""
    if kind in LAYOUTS:
        return f"layout {kind} ({LAYOUTS[kind].columns})"
    return f"{kind}/{version}" if version is not None else f"layout tokalign ({kind})"


def headline(m: Manifest) -> list[str]:
    """Return the most important statistics of an artifact, as lines."""
    s = m.stats
    if m.kind == "edits":
        return _edits(m)
    if m.kind == "token-labels":
        return _labels(s)
    if m.kind in ("reward-model", "reward-metrics"):
        return _reward_model(m)
    stopped = f"; stopped early: {s['stopped']}" if s.get("stopped") else ""
    if m.kind == "policy" and "best_step" in s:
        won = f", win rate on held-out prompts {s['best_win_rate']:.1f} %" if s["best_win_rate"] is not None else ""
        warnings = [f"warning: {sign}" for sign in s.get("warnings", {}).values()]
        return [f"kept step {s['best_step']} of {s['steps']}{won}{stopped}", *warnings]
    if m.kind == "policy":
        loss = "" if s["final_loss"] is None else f", final loss {s['final_loss']:.4f}"
        return [f"{s['weights']} weights, {s['steps']} steps{loss}{stopped}"]
    if m.kind == "winrates":
        return _win_rates(m)
    return []


def _next(kind: str, m: Manifest) -> list[str]:
    """Return the next commands. If nothing was edited or the model is not above chance, only ``show``."""
    if "shard" in m.stats:
        return ["tokalign merge {path} PARTS… --out WHOLE"]
    if m.kind == "edits" and m.unresolved:
        return NEXT[kind][:1]
    if m.kind == "reward-model" and not _against_chance(m).above:
        return NEXT[kind][:1]
    return NEXT.get(kind, [])


def _against_chance(m: Manifest) -> Finding:
    return against_chance(m.stats, str(m.config.get("pairs", "edited")))


def _reward_model(m: Manifest) -> list[str]:
    s = m.stats
    metrics = [(name, s[name.replace(" ", "_")]) for name in ("edited over original", "chosen over rejected", "flips")]
    about = "accuracy" if m.kind == "reward-metrics" else "held-out accuracy"
    lines = [
        f"{about}, {name}: {v:.3f} (n = {d.get('pairs', d.get('edits'))})"
        for name, d in metrics
        if (v := d.get("mean", d.get("accuracy"))) is not None
    ]
    finding = _against_chance(m)
    if finding.above:
        return lines
    lines.append(f"warning: {finding.why}")
    if finding.above is None:
        return [*lines, "  PPO with it may learn noise; use more rows or a larger --heldout to find out"]
    return [*lines, "  PPO with it would learn noise; try more edits, more epochs, a larger model or another --lr"]


def _edits(m: Manifest) -> list[str]:
    s = m.stats
    lines = [", ".join(f"{n} {name}" for name, n in s["status"].items())]
    if s["similarity_mean"] is not None:
        lines[0] += f"; {s['similarity_mean']:.0%} of the words kept on average"
    if not s["status"].get("edited"):
        why = "; the rules only work on the playground's texts" if m.config.get("editor") == "rules" else ""
        lines.append(f"warning: no row was edited{why}")
    if histogram := s.get("similarity_histogram"):
        lines.append(f"share of words kept  0 |{bars(histogram)}| 1")
    for about, name in (("flaw categories", "categories"), ("reasons", "reasons")):
        if counts := ", ".join(f"{key} {n}" for key, n in sorted(s[name].items())):
            lines.append(f"{about}: {counts}")
    return lines + _money(m)


def _win_rates(m: Manifest) -> list[str]:
    lines = []
    for name, c in m.stats["candidates"].items():
        if c["win_rate"] is None:
            lines.append(f"{name}: none of {c.get('n_unjudged', 0)} comparisons has a verdict")
            continue
        lines.append(f"{name}: win rate {c['win_rate']:.1f} %{_interval(c, '')}, {c['n_total']} comparisons")
        if c.get("n_unjudged"):
            lines[-1] += f"; {c['n_unjudged']} more without a verdict"
        if c.get("agreement") is not None:
            first, disagreements = c.get("prefers_first") or 0.0, c.get("n_disagreements", 0)
            lines.append(f"  judge in both orders: same verdict for {c['agreement']:.0f} % of pairs")
            lines[-1] += f", first response preferred in {first:.0f} %; {disagreements} disagreements count as ties"
    for p in m.stats["paired"]:
        difference = f"{p['difference']:+.1f} points{_interval(p, '+')}"
        lines.append(f"{p['a']} minus {p['b']}: {difference}, p = {p['p_value']:.2g}")
    return lines + _money(m)


def _interval(stats: Mapping[str, Any], sign: str) -> str:
    if stats.get("ci95") is None:  # artifact of an older version
        return ""
    low, high = stats["ci95"]
    return f" (95 %: {low:{sign}.1f} to {high:{sign}.1f})"


def _money(m: Manifest) -> list[str]:
    """Return lines about the cost and about failed rows."""
    lines = []
    if u := m.usage:
        lines.append(f"paid ${u.get('usd', 0.0):.4f} for {u.get('answers', 0)} answers, over all runs")
        if lost := u.get("lost_calls"):
            lines[-1] += f", and up to ${u.get('perhaps_usd', 0.0):.4f} for {lost} calls whose outcome is unknown"
    if failed := m.rows.get("failed"):
        lines.append(f"{failed} rows failed; run the same command again to retry them")
    return lines


def _labels(s: Mapping[str, Any]) -> list[str]:
    shares = ", ".join(f"{s[f'share_{name}']:.1%} {name}" for name in ("bad", "neutral", "good"))
    detail = ""
    if by_edits := s.get("rows_by_edits"):
        counts = [f"{n}: {by_edits.get(n, 0)}" for n in ("1", "2", "3")]
        detail = f" (rows by edits: {', '.join(counts)}, more: {sum(by_edits[n] for n in by_edits if int(n) > 3)})"
    lines = [
        f"{s['tokens']} tokens: {shares}",
        f"{s['edits_per_row']:.1f} edits per row{detail}, {s['unchanged']} rows unchanged",
    ]
    if histogram := s.get("similarity_histogram"):
        lines.append(f"share of words kept  0 |{bars(histogram)}| 1")
    if longest := list(s.get("longest_edits", {}).items())[:3]:
        lines.append("longest edits: " + ", ".join(f"{name} ({n} tokens)" for name, n in longest))
    return lines


def bars(counts: Sequence[int]) -> str:
    """Draw a bar for each count; a count above 0 gets at least the lowest bar."""
    top = max(counts, default=0)
    return "".join(" " if not n else "▁▂▃▄▅▆▇█"[max(0, round(8 * n / top) - 1)] for n in counts)
