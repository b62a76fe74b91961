"""A gate's decision for people and CI systems: lines, Markdown, JUnit XML, annotations, metrics."""

from __future__ import annotations

import datetime
import platform
import re
from xml.etree import ElementTree

from harness.cli.render.tables.escapes import clipped, for_markdown
from harness.results.gate import Decision, Finding
from harness.system.console import printable

_WORD = {"pass": "PASS", "fail": "FAIL", "inconclusive": "UNDECIDED"}
_MARK = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


_COMMAND = re.compile(r"^(?=\s*(::|##))")
"""How a line begins that GitHub or Azure Pipelines takes for a command to itself."""
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that no XML 1.0 document may hold, not even escaped."""
LONGEST = 1000
"""Characters of a label or a sentence."""
LONGEST_COMMENT = 60_000
"""Characters of a table of rules: a comment on GitHub holds 65,536."""


def headline(decision: Decision) -> str:
    """The verdict in one sentence."""
    verdict = {
        "pass": "passes",
        "fail": "is worse than the policy allows",
        "inconclusive": "is too close to its limits to decide with these samples",
    }[decision.verdict]
    override = "" if decision.blocks or decision.verdict == "pass" else "; the policy lets it pass"
    return f"{decision.candidate} against {decision.baseline}: {verdict}{override}"


def lines(decision: Decision) -> list[str]:
    """A line per rule, then the headline; whatever a label holds, none is a command to a CI."""
    rules = [
        f"{_WORD[finding.verdict]:9}  {_named(finding)}: {finding.sentence}"
        for finding in decision.findings
    ]
    return [one_line(text) for text in (*rules, headline(decision))]


def one_line(text: str) -> str:
    """A text, cut where it is long, as one line that is no workflow command (`::error::`)."""
    return _COMMAND.sub("\\\\", printable(" ".join(clipped(text, LONGEST).splitlines())))


def markdown(decision: Decision) -> str:
    """A table of the rules, for a pull request or a job's summary."""
    rows = [["rule", "verdict", "evidence"], ["---"] * 3]
    rows += [
        [
            f"{_code(_named(finding))} {_plain(finding.limit)}",
            _MARK[finding.verdict],
            _plain(finding.sentence),
        ]
        for finding in decision.findings
    ]
    table = _shortened([f"| {' | '.join(row)} |" for row in rows])
    verdict = _MARK[decision.verdict].split()[0]
    notes = "".join(f"- {_plain(warning, line_start=True)}\n" for warning in decision.warnings)
    title = f"### {verdict} {_plain(headline(decision))}"
    return f"{title}\n\n{table}\n" + (f"\n{notes}" if notes else "")


def _shortened(table: list[str]) -> str:
    """The lines of a table, those that do not pass first to stay where it is too long for one."""
    heads, rows = table[:2], table[2:]
    room = LONGEST_COMMENT - sum(len(line) + 1 for line in heads)
    kept: set[int] = set()
    for index in sorted(range(len(rows)), key=lambda index: _MARK["pass"] in rows[index]):
        room -= len(rows[index]) + 1
        if room < 0:
            break
        kept.add(index)
    left_out = len(rows) - len(kept)
    more = [f"| {left_out} more rules are in the other reports | | |"] if left_out else []
    return "\n".join([*heads, *(rows[index] for index in sorted(kept)), *more])


def github_annotations(decision: Decision) -> list[str]:
    """Workflow commands of GitHub: an error for each rule that blocks, warnings for the rest.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    found = [
        (_fails(finding, decision), _named(finding), finding.sentence)
        for finding in decision.findings
        if finding.verdict != "pass"
    ]
    found += [(False, "harness gate", warning) for warning in decision.warnings]
    return [
        f"::{'error' if blocks else 'warning'} title={_property(title)}::{_data(text)}"
        for blocks, title, text in sorted(found, key=lambda one: not one[0])
    ]


def _data(text: str) -> str:
    """The message of a workflow command."""
    text = printable(clipped(text, LONGEST).replace("\r\n", "\n"))
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a workflow command, which `:` and `,` would end."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def openmetrics(decision: Decision) -> str:
    """The rules' figures in OpenMetrics' text form, as GitLab's metrics report reads them."""
    figures = {
        "passed": "Whether the rule passes.",
        "value": "The candidate's figure.",
        "baseline": "The baseline's figure.",
        "change": "What the limit is held against.",
        "bound": "The limit, on the scale of the change.",
    }
    lines = []
    for figure, told in figures.items():
        lines += [f"# TYPE harness_gate_{figure} gauge", f"# HELP harness_gate_{figure} {told}"]
        samples = {}
        for finding in decision.findings:
            known = finding.verdict == "pass" if figure == "passed" else getattr(finding, figure)
            if known is not None:
                where = f'rule="{_label(_named(finding))}",limit="{_label(finding.limit)}"'
                samples[where] = f"{float(known):.9g}".replace("nan", "NaN").replace("inf", "Inf")
        lines += [f"harness_gate_{figure}{{{where}}} {known}" for where, known in samples.items()]
    return "\n".join([*lines, "# EOF", ""])


def _label(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace('"', '\\"')


def _plain(text: str, *, line_start: bool = False) -> str:
    """A text that Markdown shows as it is, on one line that is no workflow command."""
    return for_markdown(one_line(text), line_start=line_start)


def _code(text: str) -> str:
    """A text as code within a table: nothing in it is markup, and none of it ends the code."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


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
    err.text = "\n".join(map(one_line, decision.warnings))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    _make_valid(root)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _make_valid(root: ElementTree.Element) -> None:
    r"""Write what XML cannot hold, and what would hide in it, as JSON escapes it (`\u001b`)."""
    for element in root.iter():
        element.text = element.text and _valid(element.text)
        for name, value in element.items():
            element.set(name, _valid(value))


def _valid(text: str) -> str:
    return _NO_XML.sub(lambda character: f"\\u{ord(character[0]):04x}", printable(text))


def _case(suite: ElementTree.Element, finding: Finding, element: str) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"gate.{finding.name.partition('.')[0]}",
        name=clipped(f"{_named(finding)} {finding.limit}", LONGEST),
        time="0",
    )
    if finding.verdict == "pass":
        return
    kind = {"fail": "regression"}.get(finding.verdict, finding.verdict)
    attributes = {"type": kind, "message": finding.sentence} if element == "failure" else {}
    outcome = ElementTree.SubElement(case, element, attributes)
    outcome.text = one_line(finding.sentence)


def _fails(finding: Finding, decision: Decision) -> bool:
    return finding.verdict == "fail" or (finding.verdict == "inconclusive" and decision.blocks)


def _named(finding: Finding) -> str:
    return f"{finding.title} ({finding.name})" if finding.title else finding.name
