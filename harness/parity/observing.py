"""Both forms asked the same prompts: what each read, said, and how likely it held that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.api.model import Generation, Model
from harness.data.tokenization import encode_after, encode_prompt
from harness.export.differences import first_difference
from harness.parity.forms import Said, Shipped
from harness.parity.seen import Answer, FirstDifference, Position, Seen
from harness.parity.server import Continued
from harness.types import Message, Sample

REPEATS = 8
"""Conversations that are asked twice, to see whether the answer is the same."""
ENDED = 6
"""Answers that must come to an end to tell whether the form's do. Where fewer do, for they are cut
at the suite's most tokens, as many are asked with room for LONG."""
LONG = 160
"""Tokens of such an answer at most."""
PAST = 24
"""Tokens that the form has beyond our own end: one that runs on fills them."""
_REST = 1e-6
"""The least probability of what is not listed: figures that round above one give less."""


@dataclass(frozen=True)
class Prompt:
    """A question of one of the cell's suites, with the answer that was recorded."""

    suite: str
    row: str
    stored: str
    most: int
    """Tokens of an answer."""
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    """Instead of messages, as it is."""
    thought: bool = False
    """Whether `stored` is what came after the model's reasoning; answers are compared with it."""

    @property
    def sample(self) -> Sample:
        """For the tokenizer."""
        return Sample(self.row, messages=self.messages, prompt=self.text)


@dataclass
class Own:
    """The cell's model, open."""

    model: Model

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(getattr(self.model, "end_ids", None) or [self.model.end_token])

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Its token ids, as the suite makes them."""
        return tuple(encode_prompt(self.model.tokenizer, prompt.sample, self.model.chat_template))

    def answers(self, prompts: Sequence[Sequence[int]], most: Sequence[int]) -> list[Generation]:
        """Greedy ones, each of so many tokens at most."""
        found: dict[int, Generation] = {}
        for cap in sorted(set(most)):
            places = [i for i, its in enumerate(most) if its == cap]
            given = self.model.generate([prompts[i] for i in places], max_new_tokens=cap)
            found |= dict(zip(places, given, strict=True))
        return [found[i] for i in range(len(prompts))]

    def said(self, generated: Generation) -> Answer:
        """A generation as an answer."""
        text = self.model.text(generated.ids).strip()
        return Answer(text, not generated.capped, tuple(generated.ids))


Say = Callable[[str], None]


def own_answers(own: Own, prompts: Sequence[Prompt]) -> list[Seen]:
    """What the cell's model says now; prompts that its context cuts are left out."""
    ids = [own.ids(prompt) for prompt in prompts]
    generated = own.answers(ids, [prompt.most for prompt in prompts])
    return [
        _own_answer(own, prompt, its, own.said(answer))
        for prompt, its, answer in zip(prompts, ids, generated, strict=True)
        if not answer.cut
    ]


def _own_answer(own: Own, prompt: Prompt, ids: tuple[int, ...], said: Answer) -> Seen:
    again = prompt.thought and said.text.endswith(prompt.stored)
    stored = said.text if again else prompt.stored
    text = own.model.tokenizer.decode(list(ids))
    return Seen(prompt.suite, prompt.row, ids, text, said, stored)


def with_endings(own: Own, prompts: Sequence[Prompt], seen: Sequence[Seen]) -> list[Seen]:
    """Further answers with room to end, where too few of those seen do."""
    if sum(one.ours.ended for one in seen) >= ENDED:
        return []
    by_row = {(one.suite, one.row): one for one in seen}
    cut = [
        by_row[p.suite, p.row]
        for p in prompts
        if p.messages and (p.suite, p.row) in by_row and not by_row[p.suite, p.row].ours.ended
    ][: 2 * ENDED]
    longer = own.answers([one.prompt for one in cut], [LONG] * len(cut))
    given = [(one, own.said(answer)) for one, answer in zip(cut, longer, strict=True)]
    return [replace(one, ours=said, ends=True) for one, said in given if said.ended][:ENDED]


def with_theirs(
    own: Own, prompts: Sequence[Prompt], seen: Sequence[Seen], form: Shipped, say: Say
) -> tuple[list[Seen], list[list[Any]], set[str]]:
    """The same with the form's side, the places of its exact answers, and who answered."""
    messages = {(p.suite, p.row): p.messages for p in prompts}
    most = {(p.suite, p.row): p.most for p in prompts}
    talks = [one for one in seen if messages[one.suite, one.row]]
    conversations = [messages[one.suite, one.row] or () for one in talks]
    say("ask how prompts are rendered")
    rendered = form.render(conversations)
    say(f"ask {len(talks)} conversations")
    caps = [
        len(one.ours.ids or ()) + PAST if one.ends else most[one.suite, one.row] for one in talks
    ]
    said = form.chat(list(zip(conversations, caps, strict=True)))
    twice = [i for i, one in enumerate(talks) if not one.ends and said[i].text is not None]
    repeated = form.chat([(conversations[i], caps[i]) for i in twice[:REPEATS]])
    again = dict(zip(twice, repeated, strict=False))
    say("continue the same token ids")
    plain = [one for one in seen if not one.ends]
    exact = form.continued([(one.prompt, most[one.suite, one.row]) for one in plain])
    places: dict[tuple[str, str], list[Any]] = {}
    found: dict[int, Seen] = {}
    for one, continued in zip(plain, exact, strict=True):
        found[id(one)], its = _continued(own, one, continued)
        places[one.suite, one.row] = its
    for i, one in enumerate(talks):
        known = found.get(id(one), one)
        found[id(one)] = replace(
            known,
            their_prompt=rendered[i].ids,
            their_text=rendered[i].text,
            their_count=said[i].count,
            theirs=_answer(own, said[i], known),
            failure=said[i].failure,
            too_long=said[i].too_long,
            again=_answer(own, again[i], known) if i in again else None,
        )
    every = [found[id(one)] for one in seen]
    named = {one.model for one in said if one.model}
    kept = [[] if one.ends else places.get((one.suite, one.row), []) for one in every]
    return every, kept, named


def _continued(own: Own, one: Seen, said: Continued | None) -> tuple[Seen, list[Any]]:
    """With the answer to our own token ids, and its places up to where it ends."""
    if said is None:
        return one, []
    places = list(said.places or ())
    ids = tuple(place[0] for place in places)
    while ids and ids[-1] in own.ends:
        ids = ids[:-1]
    kept = ids if said.places is not None else None
    answer = Answer(said.text.strip(), said.ended, kept)
    # a prompt that is no conversation has no other answer; a conversation gets its own below
    return replace(one, exact=answer, theirs=answer), _to_end(places, own.ends)


def _to_end(places: list[Any], ends: frozenset[int]) -> list[Any]:
    """The places up to the first where the answer ends, or would but for a form that runs on."""
    for at, (token, _, top) in enumerate(places):
        if token in ends or (top and top[0][0] in ends):
            return places[: at + 1]
    return places


def _answer(own: Own, said: Said, known: Seen) -> Answer | None:
    """An answer to messages; its token ids are those of the exact one where the text is the same,
    else those that our tokenizer makes of it."""
    if said.text is None:
        return None
    text = said.text.strip()
    for other in (known.ours, known.exact):
        if other is not None and other.ids is not None and other.text == text:
            return Answer(text, said.ended, other.ids)
    return Answer(text, said.ended, tuple(encode_after(own.model.tokenizer, said.text)))


# ---- how likely each holds it --------------------------------------------------------------------


def with_positions(own: Own, seen: Sequence[Seen], places: Sequence[list[Any]]) -> list[Seen]:
    """The same with how likely the cell's model holds what the form chose, and where answers part.

    One call scores all: contexts are shared, so that each is computed once.
    """
    parted = [_parting(own, one) for one in seen]
    wanted: dict[tuple[tuple[int, ...], int], int] = {}
    for context, token in _wanted(seen, places, parted):
        wanted.setdefault((context, token), len(wanted))
    scores = own.model.loglikelihood([(context, (token,)) for context, token in wanted])

    def score(context: tuple[int, ...], token: int) -> Any:
        return scores[wanted[context, token]]

    found = []
    for one, its, parting in zip(seen, places, parted, strict=True):
        ids = [place[0] for place in its]
        positions = tuple(
            _position(place, one.prompt + tuple(ids[:at]), score, own.ends)
            for at, place in enumerate(its)
        )
        first = None
        if parting is not None:
            at, ours, theirs = parting
            context = (*one.prompt, *(one.ours.ids or ())[:at])
            gap = score(context, ours).logprob - score(context, theirs).logprob
            decode = own.model.tokenizer.decode
            first = FirstDifference(at, decode([ours]), decode([theirs]), gap)
        found.append(replace(one, positions=positions, first=first))
    return found


def _wanted(
    seen: Sequence[Seen],
    places: Sequence[list[Any]],
    parted: Sequence[tuple[int, int, int] | None],
) -> Iterable[tuple[tuple[int, ...], int]]:
    """(context, token) of all that is scored."""
    for one, its, parting in zip(seen, places, parted, strict=True):
        ids: tuple[int, ...] = ()
        for token, _, top in its:
            for listed in {token, *(listed for listed, _ in top)}:
                yield one.prompt + ids, listed
            ids = (*ids, token)
        if parting is not None:
            context = (*one.prompt, *(one.ours.ids or ())[: parting[0]])
            yield context, parting[1]
            yield context, parting[2]


def _parting(own: Own, one: Seen) -> tuple[int, int, int] | None:
    """(tokens in common, ours, theirs) where the answers part; None where they do not."""
    if one.theirs is None or one.theirs.text == one.ours.text:
        return None
    end = own.model.end_token
    ours = [*(one.ours.ids or ()), *([end] if one.ours.ended else [])]
    theirs = [*(one.theirs.ids or ()), *([end] if one.theirs.ended else [])]
    at = first_difference(ours, theirs)
    if at is None or at >= min(len(ours), len(theirs)):
        return None  # one of them was cut
    return at, ours[at], theirs[at]


def _position(
    place: Any, context: tuple[int, ...], score: Callable[..., Any], ends: frozenset[int]
) -> Position:
    token, nats, top = place
    likeliest = max(top, key=lambda one: one[1])[0] if top else token
    pairs = [(score(context, listed).logprob, its) for listed, its in top]
    return Position(
        score(context, token).logprob,
        nats,
        bool(score(context, likeliest).greedy),
        divergence(pairs),
        # a form that runs on does not choose an end, likely as it is
        chosen=token == likeliest or likeliest in ends or _tied(top, token),
    )


def _tied(top: Sequence[tuple[int, float]], token: int) -> bool:
    """Whether a token is as likely as the likeliest, but for rounding."""
    by_token: Mapping[int, float] = dict(top)
    return token in by_token and max(by_token.values()) - by_token[token] < 1e-3


def divergence(pairs: Sequence[tuple[float, float]]) -> float:
    """KL divergence in nats of ours from theirs, by (ours, theirs) nats of the listed tokens.

    All others count as one, which makes it no larger than the divergence over all tokens (the log
    sum inequality; Cover & Thomas, Elements of Information Theory, 2.7.1).
    """
    ours = [math.exp(nats) for nats, _ in pairs]
    theirs = [math.exp(nats) for _, nats in pairs]
    rest = (max(_REST, 1 - math.fsum(ours)), max(_REST, 1 - math.fsum(theirs)))
    terms = [p * math.log(p / max(q, 1e-30)) for p, q in zip(ours, theirs, strict=True) if p > 0]
    return max(0.0, math.fsum([*terms, rest[0] * math.log(rest[0] / rest[1])]))


def with_base(
    own: Own, seen: Sequence[Seen], places: Sequence[list[Any]], most: Mapping[tuple[str, str], int]
) -> list[Seen]:
    """The same with the answers of the base, which `own` holds now, and its log-probabilities."""
    asked = [i for i, one in enumerate(seen) if not one.ends]
    caps = [most[seen[i].suite, seen[i].row] for i in asked]
    answers = own.answers([seen[i].prompt for i in asked], caps)
    by_place = dict(zip(asked, map(own.said, answers), strict=True))
    requests = [
        (seen[i].prompt + tuple(place[0] for place in its[:at]), (its[at][0],))
        for i, its in enumerate(places)
        for at in range(len(its))
    ]
    scores = iter(own.model.loglikelihood(requests)) if requests else iter(())
    found = []
    for i, one in enumerate(seen):
        positions = tuple(replace(p, base=next(scores).logprob) for p in one.positions)
        found.append(replace(one, base=by_place.get(i), positions=positions))
    return found
