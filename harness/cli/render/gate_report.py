"""A gate's decision for people and CI systems: lines, Markdown, JUnit XML."""

from __future__ import annotations

import datetime
import platform
import re
from xml.etree import ElementTree

from harness.results.gate import Decision, Finding
from harness.system.console import printable

_WORD = {"pass": "PASS", "fail": "FAIL", "inconclusive": "UNDECIDED"}
_MARK = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


_COMMAND = re.compile(r"^(?=\s*(::|##))")
"""How a line begins that GitHub or Azure Pipelines takes for a command to itself."""
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that no XML 1.0 document may hold, not even escaped."""
_MARKDOWN = re.compile(r"([\\`*\[\]<>|])")


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
    """A text as one line that is no workflow command, such as `::error::`."""
    return _COMMAND.sub("\\\\", printable(" ".join(text.splitlines())))


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
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    verdict = _MARK[decision.verdict].split()[0]
    notes = "".join(f"- {_plain(warning)}\n" for warning in decision.warnings)
    title = f"### {verdict} {_plain(headline(decision))}"
    return f"{title}\n\n{table}\n" + (f"\n{notes}" if notes else "")


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


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
    r"""Write what XML cannot hold as JSON escapes it (`\u001b`)."""
    for element in root.iter():
        element.text = element.text and _valid(element.text)
        for name, value in element.items():
            element.set(name, _valid(value))


def _valid(text: str) -> str:
    return _NO_XML.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


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
    kind = {"fail": "regression"}.get(finding.verdict, finding.verdict)
    attributes = {"type": kind, "message": finding.sentence} if element == "failure" else {}
    outcome = ElementTree.SubElement(case, element, attributes)
    outcome.text = one_line(finding.sentence)


def _fails(finding: Finding, decision: Decision) -> bool:
    return finding.verdict == "fail" or (finding.verdict == "inconclusive" and decision.blocks)


def _named(finding: Finding) -> str:
    return f"{finding.title} ({finding.name})" if finding.title else finding.name
