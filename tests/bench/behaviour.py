"""`make bench-analytics`: what the behavioural analyser finds in the recorded corpus, what it says of benign work, beside simpler ones, and what it costs.

Not a test: nothing here fails because a figure is bad. How figures are made and what they do not say is in docs/behaviour.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye_analytics.analyzer import DECADES
from tests.bench import behaviour_baselines as baselines
from tests.bench import behaviour_cost, machine, masquerade
from tests.bench.judged import Judged, judge
from tests.bench.ranking import auroc, average_precision, recall
from tests.bench.tables import Outcome, Target
from tests.corpus import corpus

NAMES: Final = ("dev", "test", "masquerade", "cost")
SHARES: Final = (0.001, 0.01)
SCORES: Final = (0.8, 0.6, 0.5)
NOMINAL: Final = (0.1, 0.01, 0.001, 0.0001)
_RECALL: Final = 0.9
_FALSE: Final = 0.02
"""What issue 7 aims at: recall of attacks, and false alarms a workload-day."""


def split(name: str) -> Outcome:
    """A split as the analyser judged it, with rare benign events as a surprise and as planned changes, and the baselines."""
    recording = corpus.load(name)
    judged, _ = judge(recording)
    runs = {
        "as they come": judged,
        "rare events planned": judge(recording, announced=True)[0],
        "attacks flagged": judge(recording, flagged=True)[0],
        "both": judge(recording, announced=True, flagged=True)[0],
    }
    told = {key: figures(each) for key, each in runs.items()}
    outcome = Outcome(f"corpus, split {name}", ("", *told))
    outcome.rows = [(key, *(each[key] for each in told.values())) for key in told["as they come"]]
    outcome.data = {
        "figures": told,
        "techniques": {key: techniques(each) for key, each in runs.items()},
        "nominal": {key: calibration(each) for key, each in runs.items()},
    }
    missed = [
        f"{technique} {found}/{all_}" for technique, (found, all_) in techniques(runs["both"]).items() if found < all_
    ]
    bound = f"had nothing alarmed in them, the rate of false alarms would be below {3 / judged.days:.3f} a workload-day (95 %)"
    outcome.notes = [
        f"{judged.days:.1f} workload-days from the first attack on: {bound}",
        "rare events planned: the analyser did not see their processes; attacks flagged: another detector found something in each, so none was learned",
        f"both, attacks found at score {SCORES[-1]}, by technique, where not all were (* in this split alone): {', '.join(missed) or 'none'}",
    ]
    found, false = (
        told["as they come"]["attacks in findings"],
        told["as they come"]["false alarms a workload-day at 0.8"],
    )
    outcome.targets = [
        Target(
            "share of attacks in findings at 0.8",
            float(found.split("(")[1].rstrip(" %)")) / 100,
            _RECALL,
            at_least=True,
        ),
        Target("false alarms a workload-day at 0.8", float(false), _FALSE),
    ]
    outcome.more = [compared(name, judged)]
    outcome.data["compared"] = outcome.more[0].data
    return outcome


def figures(judged: Judged) -> dict[str, str]:
    """What is said of one run, by name, in the order of the table."""
    surprise = of_p(judged.p)
    attacked, eventful = judged.attacked, judged.eventful
    usual = surprise[~attacked]
    worst = judged.worst(surprise)
    held_out = np.array([attack.held_out for attack in judged.recording.attacks])
    events = len({number for numbers in judged.rare for number in numbers})
    out = {
        "windows; with an attack; with a rare benign event": f"{len(attacked):,}; {attacked.sum():,}; {eventful.sum():,}",
        "windows with a score": f"{np.mean(~np.isnan(judged.p)):.1%}",
        "AUROC of windows": f"{auroc(attacked, surprise):.4f}",
        "average precision of windows": f"{average_precision(attacked, surprise):.3f}",
    }
    for share in SHARES:
        out[f"recall of attacks at {share:.1%} of benign windows"] = f"{recall(worst, usual, share):.3f}"
    if held_out.any():
        for share in SHARES:
            out[f"the same, techniques of this split alone, at {share:.1%}"] = (
                f"{recall(worst[held_out], usual, share):.3f}"
            )
    for value in SCORES:
        found = worst >= value * DECADES - 1e-9
        out[f"attacks found at {value}"] = f"{found.sum()} of {len(found)} ({found.mean():.1%})".replace("%", " %")
        alarms = surprise >= value * DECADES - 1e-9
        out[f"benign windows at {value}: routine; rare events"] = (
            f"{(alarms & ~attacked & ~eventful).sum()}; {(alarms & eventful).sum()}"
        )
    routine = sum(not attacks and not rare for attacks, rare in zip(judged.told_attacks, judged.told_rare, strict=True))
    of_rare = sum(
        not attacks and bool(rare) for attacks, rare in zip(judged.told_attacks, judged.told_rare, strict=True)
    )
    out["findings: of attacks; of rare events; of routine"] = (
        f"{len(judged.told) - routine - of_rare}; {of_rare}; {routine}"
    )
    hit = {number for numbers in judged.told_attacks for number in numbers}
    out["attacks in findings"] = f"{len(hit)} of {len(worst)} ({len(hit) / len(worst):.1%})".replace("%", " %")
    out["false alarms a workload-day at 0.8"] = f"{(routine + of_rare) / judged.days:.3f}"
    out["of these, routine"] = f"{routine / judged.days:.3f}"
    out["rare benign events seen a workload-day"] = f"{events / judged.days:.2f}"
    out["seconds from an attack's begin to its finding"] = delays(judged)
    for nominal, observed in calibration(judged).items():
        out[f"benign windows with p ≤ {nominal}"] = f"{observed:.2g}"
    out["executions a CPU second, in ticks as sparse as recorded"] = (
        f"{sum(len(w.times) for w in (*judged.earlier, *judged.windows)) / judged.cpu_s:,.0f}"
    )
    return out


def of_p(p: np.ndarray) -> np.ndarray:
    """-log10 p of windows, float64; 0 where calibration is insufficient."""
    return np.where(np.isnan(p), 0.0, -np.log10(np.where(np.isnan(p), 1.0, p)))


def calibration(judged: Judged) -> dict[str, float]:
    """Share of the benign windows with a score whose p is at most each nominal one."""
    p = judged.p[~judged.attacked]
    p = p[~np.isnan(p)]
    return {f"{nominal:g}": float((p <= nominal).mean()) if len(p) else float("nan") for nominal in NOMINAL}


def delays(judged: Judged) -> str:
    """Seconds of the events' time from each attack's begin until it was first told: median and largest."""
    first: dict[int, float] = {}
    for finding, attacks in zip(judged.told, judged.told_attacks, strict=True):
        for number in attacks:
            first.setdefault(number, (finding.at - judged.recording.attacks[number].begin_ns) / 1e9)
    return (
        f"median {statistics.median(first.values()):.0f}, largest {max(first.values()):.0f}"
        if first
        else "none was told"
    )


def techniques(judged: Judged) -> dict[str, tuple[int, int]]:
    """Attacks found at the lowest of `SCORES` and attacks in all, by technique."""
    found: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for attack, value in zip(judged.recording.attacks, judged.worst(of_p(judged.p)), strict=True):
        name = f"{attack.technique}*" if attack.held_out else attack.technique
        every[name] += 1
        found[name] += bool(value >= SCORES[-1] * DECADES - 1e-9)
    return {name: (found[name], every[name]) for name in sorted(every)}


def compared(name: str, judged: Judged) -> Outcome:
    """The analyser and its models beside the baselines, by rank alone."""
    outcome = Outcome(
        f"corpus, split {name}: beside simpler ones",
        ("", "AUROC", "average precision", *(f"recall of attacks at {share:.1%}" for share in SHARES)),
    )
    scores = {"analyser": of_p(judged.p)}
    scores |= {
        f"  {model} alone": of_p(np.array([w.models[model] for w in judged.windows]))
        for model in judged.windows[0].models
    }
    scores |= {
        "one IForest on program counts": baselines.global_forest(judged),
        "IForest a workload on program counts": baselines.own_forests(judged),
        "allow-list: new programs and pairs in the window": baselines.new_items(judged),
    }
    attacked = judged.attacked
    for each, score in scores.items():
        worst = judged.worst(score)
        row = (
            auroc(attacked, score),
            average_precision(attacked, score),
            *(recall(worst, score[~attacked], share) for share in SHARES),
        )
        outcome.rows.append((each, *(f"{value:.3f}" for value in row)))
        outcome.data[each.strip()] = row
    attacks, rare = baselines.first_seen(judged)
    hit = {number for numbers in attacks for number in numbers}
    false = [bool(r) for a, r in zip(attacks, rare, strict=True) if not a]
    per_day = f"{len(false) / judged.days:.2f} false ones a workload-day, {sum(false) / judged.days:.2f} of them about rare benign events"
    outcome.notes = [
        f"the shipped detector first_seen: {len(attacks):,} findings, {len(hit)} of {len(judged.recording.attacks)} attacks in them; {per_day}"
    ]
    outcome.data["first_seen"] = {
        "findings": len(attacks),
        "attacks": len(hit),
        "false": len(false),
        "of_rare": sum(false),
        "days": judged.days,
    }
    return outcome


def main(argv: list[str] | None = None) -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="tests.bench.behaviour", description="Measures the behavioural analyser.")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures as JSON, too")
    options = parser.parse_args(argv)
    facts = machine.facts(["make", "bench-analytics", f'ARGS="{" ".join(sys.argv[1:] if argv is None else argv)}"'])
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), flush=True)
    benches: dict[str, Callable[[], Outcome]] = {
        "dev": lambda: split("dev"),
        "test": lambda: split("test"),
        "masquerade": masquerade.run,
        "cost": behaviour_cost.run,
    }
    results: list[dict[str, Any]] = []
    for name in options.only or NAMES:
        outcome = benches[name]()
        results.append(outcome.as_json())
        print("\n" + outcome.text(), flush=True)
        if options.output:
            options.output.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
