"""Templates of strangers: what they cannot reach, make or wait for; usual ones render as ever."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment, SecurityError

from harness.system.security import sandbox
from harness.system.security.time_limit import TooSlow

HUGE = (
    "{{ 9**(9**9) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * [1] }}",
    "{{ ('a' * 1000) * 1000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 1000000000) }}",
    "{{ 'a'.center(10000000000) }}",
    "{{ 'a'.ljust(x) }}",
    "{{ '1'.zfill(10000000000) }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ 'a' | indent(width=10000000000) }}",
    "{% set f = '{:>1000000000}'.format %}{{ f(1) }}",
)
USUAL = {
    "{{ 2**10 }} {{ 3 * 4 }} {{ 7 % 3 }} {{ -3 * 2.5 }}": "1024 12 1 -7.5",
    "{{ '-' * 3 }}{{ 'a' | center(5) }}|{{ 'b'.rjust(3) }}": "---  a  |  b",
    "{{ '%s: %5.2f%%' | format('x', 1.5) }}": "x:  1.50%",
    "{{ '%-4d|' % 7 }}{{ '{:>4}|{}'.format(1, 2) }}": "7   |   1|2",
    "{{ 'a: 1234567890'.format() }}": "a: 1234567890",
    "{% for i in range(3) %}{{ i }}{% endfor %}": "012",
}


def environment(kind=ImmutableSandboxedEnvironment):
    return sandbox.limited(kind, "the template")()


@pytest.mark.parametrize("source", HUGE)
def test_no_operation_makes_a_huge_value(source):
    with pytest.raises(SecurityError, match="a value larger than 1000000"):
        environment().from_string(source).render(x=10**10)


@pytest.mark.parametrize("source", USUAL)
def test_usual_templates_render_as_without_limits(source):
    plain = ImmutableSandboxedEnvironment().from_string(source).render()
    assert environment().from_string(source).render() == plain == USUAL[source]


def test_loops_in_loops_end(monkeypatch):
    monkeypatch.setattr(sandbox, "TEMPLATE_SECONDS", 0.2)
    loops = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
    with pytest.raises(TooSlow, match=r"the template took more than 0\.2 s"):
        environment().from_string(loops).render()


@pytest.mark.parametrize(
    "source",
    [
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ x.append(1) }}",
    ],
)
def test_nothing_of_python_is_reached(source):
    with pytest.raises(SecurityError):
        environment().from_string(source).render(x=[])


def test_the_kind_stays_what_it_is():
    """lm-eval's templates may change their own values."""
    changed = environment(SandboxedEnvironment).from_string("{{ x.append(1) }}{{ x }}")
    assert changed.render(x=[]) == "None[1]"
