"""A gate's decision for eyes and for CI systems: lines, Markdown, JUnit XML."""

from __future__ import annotations

import datetime
import platform
from xml.etree import ElementTree

from harness.gate import Decision, Finding

_WORD = {"pass": "PASS", "fail": "FAIL", "inconclusive": "UNDECIDED"}
_MARK = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def headline(decision: Decision) -> str:
    """What became of it, in one sentence."""
    what = {
        "pass": "passes",
        "fail": "is worse than the policy allows",
        "inconclusive": "cannot be told from its limits yet",
    }[decision.verdict]
    let = "" if decision.blocks or decision.verdict == "pass" else "; the policy lets it pass"
    return f"{decision.candidate} against {decision.baseline}: {what}{let}"


def lines(decision: Decision) -> list[str]:
    """A line per rule, then the headline."""
    rules = [
        f"{_WORD[finding.verdict]:9}  {_named(finding)}: {finding.sentence}"
        for finding in decision.findings
    ]
    return [*rules, headline(decision)]


def markdown(decision: Decision) -> str:
    """A table of the rules, for a pull request or a job's summary."""
    rows = [["rule", "verdict", "evidence"], ["---"] * 3]
    rows += [
        [f"`{_named(finding)}` {finding.limit}", _MARK[finding.verdict], finding.sentence]
        for finding in decision.findings
    ]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    verdict = _MARK[decision.verdict].split()[0]
    notes = "".join(f"- {warning}\n" for warning in decision.warnings)
    return f"### {verdict} {headline(decision)}\n\n{table}\n" + (f"\n{notes}" if notes else "")


def junit(decision: Decision) -> str:
    """JUnit XML: a test case per rule.

    What blocks is a failure of type `regression` or `inconclusive`; what is inconclusive and may
    pass is skipped. GitHub's, GitLab's and Jenkins' readers take it.
    """
    findings = decision.findings
    failed = [finding for finding in findings if _fails(finding, decision)]
    skipped = [f for f in findings if f.verdict == "inconclusive" and f not in failed]
    suite = ElementTree.Element(
        "testsuite",
        id="0",
        package="harness",
        name=f"harness gate {decision.candidate}",
        timestamp=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=platform.node() or "localhost",
        tests=str(len(findings)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
        time="0",
    )
    ElementTree.SubElement(suite, "properties")
    for finding in findings:
        _case(suite, finding, "failure" if finding in failed else "skipped")
    out = ElementTree.SubElement(suite, "system-out")
    out.text = "\n".join(lines(decision))
    err = ElementTree.SubElement(suite, "system-err")
    err.text = "\n".join(decision.warnings)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _case(suite: ElementTree.Element, finding: Finding, element: str) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"gate.{finding.name.partition('.')[0]}",
        name=f"{_named(finding)} {finding.limit}",
        time="0",
    )
    if finding.verdict == "pass":
        return
    what = {"fail": "regression"}.get(finding.verdict, finding.verdict)
    if element == "failure":
        told = ElementTree.SubElement(case, element, type=what, message=finding.sentence)
    else:
        told = ElementTree.SubElement(case, element)
    told.text = finding.sentence


def _fails(finding: Finding, decision: Decision) -> bool:
    return finding.verdict == "fail" or (finding.verdict == "inconclusive" and decision.blocks)


def _named(finding: Finding) -> str:
    return f"{finding.title} ({finding.name})" if finding.title else finding.name
