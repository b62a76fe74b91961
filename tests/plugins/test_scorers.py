"""What the built-in scorers say of answers, against the reference implementations and by hand."""

import unicodedata

import numpy as np
import pytest

from harness import Sample, UserError
from harness.manager import Plugins
from harness.stats import bootstrapping
from harness.types import ModelRef, Output

PLUGINS = Plugins(discover=False)


class NoTools:
    def progress(self, done, total):
        assert done <= total


def rate(name, answers, references=None, rows=(), **options):
    """Scores of the answers, as the worker gets them."""
    references = references or [None] * len(answers)
    rows = rows or [{}] * len(answers)
    outputs = [Output(str(i), text, 1, False) for i, text in enumerate(answers)]
    samples = [
        Sample(str(i), prompt="?", reference=reference, extra=row)
        for i, (reference, row) in enumerate(zip(references, rows, strict=True))
    ]
    return list(PLUGINS.scorers.get(name).rate(outputs, samples, NoTools(), **options))


# ---- words and strings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("The cat!", "a cat", 1.0),  # case, punctuation and articles do not count
        ("Denver Broncos", "the Denver Broncos, 2015", 0.8),  # 2 of 2 and 2 of 3
        ("cat cat dog", "cat dog dog", 2 / 3),  # bags: each word as often as it stands
        ("two-day", "twoday", 1.0),
        ("no", "yes", 0.0),
        ("", "yes", 0.0),
        ("an", "The", 1.0),  # nothing is left of either
        ("theatre", "atre", 0.0),  # an article is a whole word
    ],
)
def test_token_f1(answer, reference, f1):
    assert rate("token_f1", [answer], [reference]) == [pytest.approx(f1)]


def test_exact_match():
    answers = ["Within 60 days!", "within  60\ndays", "60 days"]
    assert rate("exact_match", answers, ["within 60 days"] * 3) == [1, 1, 0]


def test_facts_that_must_and_must_not_stand():
    rows = [{"must_contain": ["60 days", "tent"]}] * 2 + [{"must_contain": "Tent"}, {}]
    answers = ["A TENT, 60 days.", "60 days", "a tent", "tent"]
    assert rate("must_contain", answers, rows=rows) == [1, 0, 1, None]
    rows = [{"must_not_contain": ["free", "refund"]}] * 2 + [{"must_not_contain": "x"}, {}]
    assert rate("must_not_contain", ["No Refund.", "No.", "", "y"], rows=rows) == [0, 1, 1, None]


@pytest.mark.parametrize(
    ("answer", "part", "held"),
    [
        ("Within 41 days.", "41 days", 1),
        ("Within 141 days.", "41 days", 0),
        ("Within 1.41 days.", "41 days", 0),
        ("Within 41\u00a0days", "41 days", 1),  # white space is white space
        ("1840 grams", "1,840 grams", 1),
        ("1,840 grams", "1840 grams", 1),
        ("1.840 grams", "1,840 grams", 0),
        ("11,840 grams", "1,840 grams", 0),
        ("1,840 grams", "840 grams", 0),
        ("1,840,000", "1,840", 0),
        ("It is 11.50 euros.", "11.50 euros", 1),
        ("It is 11.50.", "11.50", 1),
        ("It is 111.50", "11.50", 0),
        ("It is 11.501", "11.50", 0),
        ("It is 11.50", "11", 0),
        ("It is 11,50", "11", 0),  # a decimal comma
        ("It is 11,50 euros", "50 euros", 0),
        ("from 9, 13 and 15", "9", 1),
        ("at 13:40", "13:40", 1),
        ("at 13:40", "3:40", 0),
        ("-5 degrees", "5 degrees", 0),
        ("-5 degrees", "-5 degrees", 1),
        ("pages 3-5", "5", 1),
        ("pages 3-5", "-5", 0),
        ("5kg", "5", 1),
        ("gate B12", "12", 0),
        ("A TENT", "tent", 1),
        ("a two-tent party", "tent", 1),
        ("intent", "tent", 0),
        ("tents", "tent", 0),
        ("a party", "art", 0),
        ("C++ and C#", "c++", 1),
        ("Stra\u00dfe", "strasse", 1),
        ("\u5e97\u306f\u5341\u6642\u306b\u958b\u304d\u307e\u3059", "\u5341\u6642", 1),
        ("\u043d\u0435\u0442", "\u0435\u0442", 0),  # Cyrillic has spaces
        ("re\u0301sume\u0301", "re", 0),  # an accent belongs to its letter
        ("", "x", 0),
    ],
)
def test_facts_are_whole_words_and_whole_numbers(answer, part, held):
    assert rate("must_contain", [answer], rows=[{"must_contain": part}]) == [held]
    assert rate("must_not_contain", [answer], rows=[{"must_not_contain": part}]) == [1 - held]


# ---- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("So 18 + 54 = 72.", "48/2 = 24, 48+24 = 72\n#### 72", 1),
        ("72", "#### 72 of 100 makes 73", 0),
        ("It costs $1,234.50.", "1234.5", 1),
        ("1,234,567", "#### 1234567", 1),
        ("The numbers are 1,2,3", "3", 1),
        ("about 50%", "50", 1),
        ("€ 7", "7.00", 1),
        ("-5", "5", 0),
        ("It is -5 degrees", "-5", 1),
        ("-$5", "-5", 1),
        ("pages 3-5", "5", 1),
        ("8 - 5", "5", 1),
        (".5", "0.50", 1),
        ("0.1 + 0.2 is 0.30000000000000004", "0.3", 0),
        ("\\boxed{12}", "12", 1),
        ("twelve", "12", 0),
        ("12", "twelve", None),
    ],
)
def test_final_number(answer, reference, score):
    assert rate("final_number", [answer], [reference]) == [score]


@pytest.mark.parametrize(
    ("answer", "valid", "with_keys"),
    [
        ('{"a": 1, "b": null}', 1, 1),
        (' {"a": 1}\n', 1, 0),
        ("[1, 2]", 1, 0),
        ('Here it is:\n```json\n{"a": 1, "b": 2}\n```\nDone.', 1, 1),
        ('```\n{"a": 1, "b": 2}\n```', 1, 1),
        ("```json\n{}\n```\n```json\n{}\n```", 0, 0),
        ('```json\r\n{"a": 1, "b": 2}\r\n```\r\n', 1, 1),
        ('Here:\r\n```\r\n{"a": 1,\r\n"b": 2}\r\n```\r\nDone.', 1, 1),
        ('```json {"a": 1, "b": 2}```', 1, 1),
        ('```{"a": 1, "b": 2}```', 1, 1),
        ('Here:\n```JSON {"a": 1, "b": 2} ```\nDone.', 1, 1),
        ("```{}``` \n```{}```", 0, 0),
        ("```json {'a': 1}```", 0, 0),
        ('```python {"a": 1}```', 0, 0),
        ("{'a': 1}", 0, 0),
        ('{"a": NaN}', 0, 0),
        ('Sure: {"a": 1, "b": 2}', 0, 0),
        ("[" * 100_000, 0, 0),
        ("", 0, 0),
    ],
)
def test_json_valid(answer, valid, with_keys):
    assert rate("json_valid", [answer]) == [valid]
    assert rate("json_valid", [answer], keys=["a", "b"]) == [with_keys]


@pytest.mark.parametrize(
    ("pattern", "answer", "reference", "score"),
    [
        (r"A: (\w+)", "Well. A: paris", "Paris ", 1),
        (r"A: (\w+)", "A: Rome. A: Paris", "Paris", 0),  # the first match
        (r"A: (\w+)", "A: Rome", None, 1),
        (r"A: (\w+)", "Paris", "Paris", 0),
        (r"A: \w+", "A: Rome", "Paris", 1),  # no group, nothing to compare
        (r"(?:yes|no)", "say no", "yes", 1),
        (r"x(y)?", "x", "y", 0),  # a group that took no part
        (r"colou?r", "Color", None, 0),
        (r"(?i)colou?r", "Color", None, 1),
    ],
)
def test_regex(pattern, answer, reference, score):
    assert rate("regex", [answer], [reference], pattern=pattern) == [score]


# ---- against the reference implementations -------------------------------------------------------

ANSWERS = ["The tents were returned within sixty days.", "Never!", "", "Returns: 60 days, free"]
REFERENCES = ["A tent returns within 60 days.", "A used stove, never.", "Yes.", "60 days, free"]


@pytest.mark.parametrize("variant", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(variant):
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer([variant], use_stemmer=True)
    pairs = zip(REFERENCES, ANSWERS, strict=True)
    wanted = [theirs.score(target, answer)[variant].fmeasure for target, answer in pairs]
    assert rate(variant, ANSWERS, REFERENCES) == wanted
    assert 0 < wanted[0] < 1


@pytest.mark.parametrize("reference", ["Yes.", "1", "Нет", "\u00c9t\u00e9!"])
def test_rouge2_refuses_a_reference_of_one_word(reference):
    samples = [Sample("two", prompt="?", reference="Yes, sir."), Sample("one", reference=reference)]
    with pytest.raises(UserError, match=r"sample one: the reference .* is a single word"):
        PLUGINS.scorers.get("rouge2").check(samples)
    PLUGINS.scorers.get("rougeL").check(samples)
    # what is refused would be 0 for the reference itself
    assert rate("rouge2", [reference], [reference]) == [0]


@pytest.mark.parametrize("reference", ["Yes, sir.", "1,840", "Да, есть", "two-day"])
def test_rouge2_takes_what_has_a_pair_of_words(reference):
    PLUGINS.scorers.get("rouge2").check([Sample("two", reference=reference)])
    assert rate("rouge2", [reference], [reference]) == [1]


def test_sentence_bleu_and_chrf_are_those_of_sacrebleu():
    import sacrebleu

    pairs = [(answer, [target]) for answer, target in zip(ANSWERS, REFERENCES, strict=True)]
    bleu = [sacrebleu.sentence_bleu(*pair).score for pair in pairs]
    assert rate("sentence_bleu", ANSWERS, REFERENCES) == pytest.approx(bleu)
    assert 0 < bleu[3] < 100
    char = [sacrebleu.sentence_bleu(*pair, tokenize="char", lowercase=True).score for pair in pairs]
    found = rate("sentence_bleu", ANSWERS, REFERENCES, tokenize="char", lowercase=True)
    assert found == pytest.approx(char)
    for word_order in (0, 2):
        chrf = [sacrebleu.sentence_chrf(*pair, word_order=word_order).score for pair in pairs]
        found = rate("sentence_chrf", ANSWERS, REFERENCES, word_order=word_order)
        assert found == pytest.approx(chrf)


CORPORA = {
    "english": (ANSWERS, REFERENCES),
    "the references themselves": (REFERENCES, REFERENCES),
    "empty answers among others": (["", "A tent.", ""], ["A stove.", "A tent returns.", "No."]),
    "empty answers alone": (["", " "], ["Yes, we do.", "No."]),
    "references of one word": (["Yes", "No.", "Perhaps", "yes"], ["Yes", "No", "Never", "Yes"]),
    "one word each, all right": (["Yes"], ["Yes"]),
    "nothing in common": (["aaa bbb ccc ddd"], ["xyz xyz xyz xyz"]),
    "no match of four words": (
        ["we ship a red tent today", "it is free of charge"],
        ["we ship the red tent now", "it comes free of cost"],
    ),
    "shorter than their references": (["the red tent"], ["the red tent is in the red box now"]),
    "longer than their references": (["the red tent is in the red box now"], ["the red tent"]),
    "russian": (
        ["Палатка красная и лёгкая.", "Нет, чайник не продаётся."],
        ["Палатка красная, лёгкая.", "Нет, этот чайник у нас не продаётся."],
    ),
    "chinese": (
        ["商店十点开门。", "我们不卖红色的帐篷"],
        ["商店早上十点开门。", "我们没有红色帐篷卖"],
    ),
    "marks that a token splits at": (["It's $1,840.50 -- no?"], ["It's $1,840.50, no more."]),
}


def of_corpus(kind, statistics):
    from harness.stats import corpus_scores

    return float(corpus_scores.SCORES[kind](np.sum(statistics, axis=0, dtype=float)))


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("tokenize", ["13a", "zh", "intl", "char", "none"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_is_sacrebleus_of_the_corpus(corpus, tokenize, lowercase):
    import sacrebleu

    answers, references = CORPORA[corpus]
    options = {"tokenize": tokenize, "lowercase": lowercase}
    found = of_corpus("corpus_bleu", rate("bleu", answers, references, **options))
    wanted = sacrebleu.corpus_bleu(answers, [references], **options).score
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("word_order", [0, 1, 2])
def test_chrf_is_sacrebleus_of_the_corpus(corpus, word_order):
    import sacrebleu

    answers, references = CORPORA[corpus]
    found = of_corpus("corpus_chrf", rate("chrf", answers, references, word_order=word_order))
    wanted = sacrebleu.corpus_chrf(answers, [references], word_order=word_order).score
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ["bleu", "chrf"])
def test_every_draw_of_the_bootstrap_is_sacrebleus_score_of_what_was_drawn(kind):
    import sacrebleu

    from harness import stats

    answers = [text for corpus, _ in CORPORA.values() for text in corpus]
    references = [text for _, corpus in CORPORA.values() for text in corpus]
    score = sacrebleu.corpus_bleu if kind == "bleu" else sacrebleu.corpus_chrf
    statistics = rate(kind, answers, references)
    (boot,) = stats.bootstraps(f"corpus_{kind}", [(statistics, None)], draws=25)
    assert boot.value == pytest.approx(score(answers, [references]).score)
    (weights,) = bootstrapping._weights(len(answers), 25, 0)
    for counts, replicate in zip(weights, boot.replicates, strict=True):
        drawn = np.repeat(np.arange(len(answers)), counts)
        theirs = score([answers[i] for i in drawn], [[references[i] for i in drawn]])
        assert replicate == pytest.approx(theirs.score)


# ---- BERTScore -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT of two layers that knows the words of the answers, 32 positions."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({w.strip(".,!:").lower() for t in ANSWERS + REFERENCES for w in t.split()})
    vocabulary = {word: i for i, word in enumerate([*marks, *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), marks, strict=True))
    folder = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return ModelRef("encoder", str(folder))


def by_definition(encoder, layer, answer, reference):
    """Equations of the paper for one pair, token by token."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder.path)
    model = AutoModel.from_pretrained(encoder.path).eval()

    def states(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(ids, output_hidden_states=True).hidden_states[layer][0]

    def best(ours, theirs):
        cosine = torch.nn.functional.cosine_similarity
        found = [max(cosine(one, other, dim=0) for other in theirs) for one in ours[1:-1]]
        return sum(found) / len(found)

    a, r = states(answer), states(reference)
    precision, recall = best(a, r), best(r, a)
    return float(2 * precision * recall / (precision + recall))


def test_bertscore_is_its_definition_whatever_the_batch(encoder):
    for layer in (1, 2):
        found = rate("bertscore", ANSWERS, REFERENCES, model=encoder, num_layers=layer)
        pairs = zip(ANSWERS, REFERENCES, strict=True)
        wanted = [by_definition(encoder, layer, *pair) if pair[0] else 0.0 for pair in pairs]
        assert found == pytest.approx(wanted, abs=1e-5)
        same = rate("bertscore", REFERENCES[:1], REFERENCES[:1], model=encoder, num_layers=layer)
        assert same == [pytest.approx(1.0)]


def test_bertscore_takes_a_text_longer_than_the_model(encoder):
    (found,) = rate("bertscore", ["days " * 99], ["60 days"], model=encoder, num_layers=2)
    assert -1 <= found <= 1


@pytest.mark.parametrize(
    "text",
    [
        "店は十時に開きます",
        "पूर्व प्रधानमन्त्री",
        "Чайник стоит",
        "المتجر مفتوح",
        "Été à la plage",
        "À é",
    ],
)
@pytest.mark.parametrize("variant", ["rouge1", "rougeL", "exact_match"])
def test_an_answer_equal_to_its_reference_scores_1_in_every_script(variant, text):
    decomposed = unicodedata.normalize("NFD", text)
    assert rate(variant, [text, decomposed, "?"], [text, text, text]) == [1, 1, 0]


EXACT = [
    ("The cat!", "a cat", 1, 0),
    ("the CAT", "cat", 1, 0),
    ("theatre", "atre", 0, 0),  # an article is a whole word
    ("two-day", "twoday", 1, 0),  # punctuation leaves no space
    ("two-day", "two day", 0, 0),
    ("-5", "5", 1, 0),
    ("C++", "C", 1, 0),
    ("x > 3", "x < 3", 1, 0),
    ("3.5", "35", 1, 0),
    ("$1,234", "1234", 1, 0),
    ("a_b", "ab", 1, 0),
    ("\u201cyes\u201d", "yes", 0, 0),  # quotation marks beyond ASCII are no punctuation
    ("don't", "dont", 1, 0),
    ("", "yes", 0, 0),
    ("a", "yes", 0, 0),
    (" yes\n", "yes", 1, 1),
    ("cat dog", "dog cat", 0, 0),
    ("\u00c9t\u00e9", "\u00e9t\u00e9", 1, 0),
]


@pytest.mark.parametrize(("answer", "reference", "squad", "strict"), EXACT)
def test_exact_match_is_that_of_squads_script(answer, reference, squad, strict):
    from lm_eval.tasks.qasper.metrics import f1_abstractive, normalize_answer

    assert (normalize_answer(answer) == normalize_answer(reference)) == bool(squad)
    assert rate("exact_match", [answer], [reference]) == [squad]
    assert rate("exact_match", [answer], [reference], normalize="none") == [strict]
    theirs = f1_abstractive([answer], [reference])
    assert rate("token_f1", [answer], [reference]) == [pytest.approx(theirs)]


def test_a_reference_of_which_squads_script_leaves_nothing_is_refused():
    check = PLUGINS.scorers.get("exact_match").check
    samples = [Sample("plus", prompt="?", reference="+")]
    with pytest.raises(UserError, match=r"sample plus: nothing is left of the reference '\+'"):
        check(samples, normalize="squad")
    check(samples, normalize="none")
