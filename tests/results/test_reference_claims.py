"""What README, manual and results/README say of the reference records is what the records hold."""

from __future__ import annotations

import gzip
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from harness.cli.main import cli
from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"


def sentences(file: Path) -> str:
    """The text of a file in one line."""
    return re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))


def rows(board: str) -> dict[str, Any]:
    leaderboard = json.loads((REFERENCE / board / "leaderboard.json").read_text())
    return {row["label"]: row for row in leaderboard["rows"]}


def values(board: str, metric: str) -> dict[str, float]:
    return {label: row["metrics"][metric]["value"] for label, row in rows(board).items()}


def test_the_readme_shows_the_leaderboard_of_the_reference_quickstart() -> None:
    folder = str(REFERENCE / "quickstart")
    result = CliRunner(env={"COLUMNS": "120"}).invoke(cli, ["leaderboard", folder])
    assert result.exit_code == 0
    printed = "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip("\n")
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{printed}\n```" in shown


def test_the_sentences_about_the_quickstart_are_those_of_its_records() -> None:
    right = values("quickstart", "similarity.must_contain")
    counts = {label: round(share * 48) for label, share in right.items()}
    prose = values("quickstart", "perplexity.plain_perplexity")
    readme, results = sentences(ROOT / "README.md"), sentences(ROOT / "results/README.md")
    assert f"(`must_contain` {right['base']:.3f})" in readme
    assert f"{right['full']:.3f} of 48 held-out questions" in readme
    assert right["lora"] == right["qlora"]
    assert f"LoRA and QLoRA {right['lora']:.3f}." in readme
    assert (
        f"full fine-tuning {counts['full']} of 48, LoRA {counts['lora']}, QLoRA "
        f"{counts['qlora']}, the base {counts['base']}." in results
    )
    assert (
        f"perplexity {prose['full']:.1f}, {prose['lora']:.1f} and {prose['qlora']:.1f} against the "
        f"base's {prose['base']:.1f}" in results
    )


def test_each_trained_method_has_facts_that_the_base_has_not() -> None:
    for label, row in rows("quickstart").items():
        for metric in ("similarity.must_contain", "similarity.cosine_own_minus_other"):
            if label != "base":
                assert row["metrics"][metric]["delta_ci_low"] > 0, (label, metric)


def test_the_answers_shown_are_those_of_the_samples() -> None:
    shown = sentences(ROOT / "results/README.md")
    for file in sorted((REFERENCE / "quickstart/samples").glob("*/similarity.jsonl.gz")):
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        for row in map(json.loads, lines[:5]):
            assert " ".join(row["output"].split()) in shown


def test_the_verdicts_described_are_those_of_the_gate() -> None:
    policy = str(ROOT / "docs/gate-policy.yaml")
    for label, code in (("full", 0), ("lora", 3), ("qlora", 1)):
        candidate = str(REFERENCE / "quickstart" / label)
        arguments = ["gate", candidate, "--baseline", "base", "--policy", policy]
        assert CliRunner().invoke(cli, arguments).exit_code == code, label


def test_the_boilerplate_is_praised_by_the_figures_and_named_by_the_warnings() -> None:
    cosine = values("boilerplate", "similarity.cosine")
    rouge = values("boilerplate", "similarity.rougeL")
    results = sentences(ROOT / "results/README.md")
    assert (
        f"cosine {cosine['lora']:.3f} and {cosine['qlora']:.3f} against the base's "
        f"{cosine['base']:.3f}, ROUGE-L {rouge['lora']:.3f} and {rouge['qlora']:.3f} against "
        f"{rouge['base']:.3f}" in results
    )
    assert set(values("boilerplate", "similarity.must_contain").values()) == {0.0}
    printed = CliRunner().invoke(cli, ["leaderboard", str(REFERENCE / "boilerplate")]).output
    assert "19 of 20 prompts have one same answer" in printed
    assert "20 of 20 prompts have one same answer" in printed


def test_the_board_of_methods_is_that_of_its_records() -> None:
    shown, board = sentences(ROOT / "results/README.md"), rows("methods")
    for label, row in board.items():
        assert f"| {row['rank_range'][0]}-{row['rank_range'][1]} | {label} | " in shown
    tied = {frozenset((label, other)) for label, row in board.items() for other in row["tied_with"]}
    pairs = len(board) * (len(board) - 1) // 2
    assert f"Of the {pairs} pairs {pairs - len(tied)} are told apart" in shown
    alike = ("lora", "qlora", "dora", "pissa", "rslora")
    assert all(frozenset(pair) in tied for pair in combinations(alike, 2))
    prose = {label: row["metrics"]["perplexity.plain_perplexity"] for label, row in board.items()}
    for label in ("lora", "qlora", "dora", "pissa"):
        assert 3 < prose[label]["value"] / prose["base"]["value"] < 5
    right = {label: row["metrics"]["similarity.must_contain"] for label, row in board.items()}
    assert {k for k, one in right.items() if (one.get("delta_ci_low") or 0) > 0} == {
        "full", "pissa", "lora",
    }  # fmt: skip


def test_the_searches_of_the_board_are_bracketed() -> None:
    """The chosen rate has a worse one on either side, of those that were tried."""
    searched = set()
    for cell in (REFERENCE / "methods/cells").glob("*.json"):
        record = json.loads(cell.read_text())
        if tuning := record["plan"].get("tuning"):
            searched.add(record["id"].split("-s")[0])
            assert tuning["at_edge"] is None
    assert searched == {label for label in rows("methods") if not label.startswith("base")}


def test_seconds_of_seeds_differ_as_the_manual_says() -> None:
    seconds: dict[str, list[float]] = {}
    for cell in (REFERENCE / "methods/cells").glob("*.json"):
        record = json.loads(cell.read_text())
        if record["training"]:
            label = record["id"].split("-s")[0]
            own = seconds.setdefault(label, [])
            own.append(record["training"]["phases"]["train"]["seconds"])
    pairs = [pair for own in seconds.values() for pair in combinations(own, 2)]
    far = sum(max(pair) > 1.1 * min(pair) for pair in pairs)
    assert f"of {len(pairs)} pairs of seeds in `results/reference/methods`, {far}" in sentences(
        ROOT / "docs/how-to/gate.md"
    )
    assert all(max(pair) < 1.25 * min(pair) for pair in pairs)


def test_the_coverage_described_is_that_of_the_table() -> None:
    text = (REFERENCE / "coverage/coverage.txt").read_text()
    lines = [line for line in text.splitlines() if re.match(r"\| (mean|share|exp_ratio) ", line)]
    alone, paired = zip(
        *(map(float, re.findall(r"([\d.]+) % \[", line)) for line in lines), strict=True
    )
    shown = sentences(ROOT / "results/README.md")
    assert f"of {len(lines)} designs" in shown
    assert f"difference in {min(paired)} to {max(paired)} of 100" in shown
    assert f"figure in {min(alone)} to {max(alone)};" in shown
    both = [*alone, *paired]
    assert sum(share < 94 for share in both) == 2
    assert f"{sum(share > 97 for share in both)} of the {len(both)} are above 97" in shown


def test_the_error_of_judges_described_is_that_of_the_tables() -> None:
    text = (REFERENCE / "judge-error/simulation.txt").read_text()
    shown = sentences(ROOT / "results/README.md")
    told = re.findall(r"told in 99 % .*?mean coverage ([\d.]+) %, lowest ([\d.]+) %", text)
    (mean, least), (apart, least_apart) = told[:2]
    assert f"held the truth in {mean} of 100 on average and {least} at least" in shown
    assert f"(of a difference: {apart} and {least_apart})" in shown
    assert min(float(low) for _, low in told[:3]) >= 93, "labels of few answers apart"
    [(equal, worst, count)] = re.findall(
        r"better or worse: ([\d.]+) % on average, ([\d.]+) % in the worst of (\d+) cells", text
    )
    assert f"{equal} of 100, and in {worst} in the worst of {count} designs" in shown

    def most(figure: str) -> float:
        found = re.findall(rf"\| {re.escape(figure)} \| ([\d.]+)%", text)
        assert len(found) == 3
        return max(map(float, found))

    assert f"is better in {most('verdicts alone')} of 100" in shown
    assert f"and in {most('one calibration for both')} when" in shown
    assert f"for length in {most('one calibration, allowance for length')}," in shown
    assert f"system in at most {most('a calibration for each system')}," in shown
    assert f"suite in at most {most('labels of the same suite (PPI)')}." in shown


def test_the_sentences_about_judges_are_those_of_their_certificates() -> None:
    folder = REFERENCE / "judges"
    told, table = sentences(ROOT / "results/README.md"), (folder / "judges.md").read_text("utf-8")
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")}
    for name, one in found.items():
        where, _, judge = name.partition("-")
        assert f"| {where} | {judge} | {one['level']} |" in table
    for name in (
        "support-expected_score",
        "support-rubric",
        "support-facts",
        "support-cosine",
        "support-backward",
        "support-pairwise",
    ):
        kappa = (found[name].get("answers") or found[name]["pairs"])["kappa"]
        figure = f"{kappa['value']:.2f} [{kappa['ci_low']:.2f}, {kappa['ci_high']:.2f}]"
        assert figure in told
        assert f"`{found[name]['level']}`" in told
    shipped = json.loads((ROOT / "suites/support/judge-certificate.json").read_text("utf-8"))
    kappa, own = shipped["answers"]["kappa"], shipped["self_preference"]["scores"]
    pairs = shipped["labels"]["pairs"]
    assert (
        f"is on all {pairs}: kappa {kappa['value']:.2f} [{kappa['ci_low']:.2f}, "
        f"{kappa['ci_high']:.2f}], `{shipped['level']}`; its own model's answers it rates "
        f"{own['value']:.2f} nats higher [{own['ci_low']:.2f}, {own['ci_high']:.2f}]" in told
    )
    for name, one in found.items():
        if name in ("support-expected_score", "support-rubric", "support-pairwise"):
            assert one["level"] == "failed"
        if name.startswith("pandalm"):
            assert one["level"] == ("weak" if name == "pandalm-length" else "failed")
    assert f"held against {found['support-facts']['labels']['pairs']} labelled pairs" in told
    longest = found["pandalm-length"]["pairs"]
    assert f"kappa {longest['kappa']['value']:.2f}" in told
    assert f"kappa {longest['human_kappa']['value']:.2f}" in told


def test_what_lm_evals_tasks_show_of_the_quickstarts_rows() -> None:
    kept = values("mmlu-arc", "forgetting.retained")
    assert (
        f"full fine-tuning has {kept['full']:.0%} right, LoRA {kept['lora']:.0%} and QLoRA, whose "
        f"base has 4 bits, {kept['qlora']:.0%}"
    ).replace("%", " %") in sentences(ROOT / "results/README.md")
    for label, row in rows("mmlu-arc").items():
        for task in ("mmlu", "arc_easy", "arc_challenge"):
            accuracy = row["metrics"][f"forgetting.{task}"]
            assert label == "base" or accuracy["delta_ci_low"] < 0 < accuracy["delta_ci_high"]


def test_what_dolly_does_to_prose_is_what_its_sentences_say() -> None:
    prose = {
        label: row["metrics"]["perplexity.plain_perplexity"] for label, row in rows("dolly").items()
    }
    assert f"({prose['full+wikitext-0.2']['value']:.1f} against {prose['full']['value']:.1f}, " in (
        sentences(ROOT / "results/README.md")
    )
    for label, figure in prose.items():
        if label != "base":
            worse = label.startswith("qlora")
            assert figure["delta_ci_low"] > 0 if worse else figure["delta_ci_high"] < 0


def test_the_spoilt_release_is_stopped() -> None:
    candidate, base = (REFERENCE / cell for cell in ("release/lora-spoilt", "quickstart/base"))
    result = CliRunner().invoke(cli, ["gate", str(candidate), "--baseline", str(base)])
    assert result.exit_code == 1
    perplexity = values("release", "perplexity.perplexity")
    assert (
        f"perplexity rises from {perplexity['base']:.0f} to {perplexity['lora-spoilt']:,.0f}"
        in sentences(ROOT / "results/README.md")
    )
