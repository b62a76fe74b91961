"""Virtual tokens: trained with the right loss, measured as peft's own forward pass runs them."""

import json
import shutil

import pytest

from harness.config.experiment import load_experiment
from harness.errors import ConfigError, UserError
from harness.manager import Plugins
from harness.models.adapters import resolve_adapter
from harness.models.inference.forward import Limit
from harness.models.inference.loglikelihood import score_requests, why_not_shared
from harness.models.language_model import LanguageModel, load_weights, open_artifact
from harness.planning.plan import Settings, make_plan
from harness.training import sft
from harness.training.trainer import head_on_trained_positions
from harness.types import Artifact, Job, ModelRef
from tests.conftest import CHATML, run_warm, write_experiment
from tests.models.inference.test_loglikelihood import naive, random_model, requests_for
from tests.training.test_sft import ROWS, job

COUNT = 5
TEXT = "You answer for a small shop."
KINDS = {
    "prompt": ("PromptTuningConfig", {}),
    "p-tuning": ("PromptEncoderConfig", {}),
    "prefix": ("PrefixTuningConfig", {}),
    "prefix-network": ("PrefixTuningConfig", {"prefix_projection": True}),
}


def adapted(model, kind, count=COUNT):
    """A random adapter of virtual tokens on a transformers model."""
    import peft
    import torch

    torch.manual_seed(3)
    config, settings = KINDS[kind]
    config = getattr(peft, config)(task_type="CAUSAL_LM", num_virtual_tokens=count, **settings)
    return peft.get_peft_model(model, config).eval()


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tiny_artifact, tokenizer):
    """The tiny model with an adapter of each kind."""
    model = adapted(load_weights(tiny_artifact), request.param)
    return LanguageModel(model, tokenizer, tiny_artifact)


@pytest.fixture(scope="module")
def requests(tokenizer):
    """Few-shot choices that share prefixes, and two pairs too long for model and adapter."""
    long = [i % len(tokenizer) for i in range(0, 3000, 10)]
    fits = long[: 256 - COUNT - 3]
    return [*requests_for(len(tokenizer))[:24], (long, [4, 5]), (fits, [1, 2, 3]), (fits, [1] * 9)]


# ---- measuring -----------------------------------------------------------------------------------


def test_scores_are_those_of_pefts_forward(opened, requests):
    assert opened.not_shared is None
    assert opened.max_length == 256 - COUNT
    expected = [sum(values) for values, _ in naive(opened.model, requests, 256 - COUNT)]
    for share in (True, False):
        for limit in (Limit(64), Limit(100_000), Limit(2048, rows=3)):
            found = score_requests(
                opened.model, requests, max_length=opened.max_length, limit=limit, share=share
            )
            assert [s.logprob for s in found] == pytest.approx(expected, abs=1e-4)
            assert [s.cut for s in found] == [*[False] * 24, True, False, True]
    assert [s.logprob for s in opened.loglikelihood(requests)] == pytest.approx(expected, abs=1e-4)
    with opened.model.disable_adapter():
        without = naive(opened.model, requests[:1])
    assert sum(without[0][0]) != pytest.approx(expected[0], abs=0.1)


def test_answers_are_those_of_pefts_generate(opened, requests):
    import torch

    prompts = [context[-60:] for context, _ in requests[::3]]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = opened.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=opened.end_ids,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        end = next((i for i, token in enumerate(made) if token in opened.end_ids), len(made))
        expected.append(tuple(made[:end]))
    for reason in (None, "for the test"):
        opened.not_shared = reason
        for rows in (None, 3):
            opened.limit.rows = rows
            assert [g.ids for g in opened.generate(prompts, max_new_tokens=6)] == expected
    opened.not_shared = None


def test_nothing_is_inherited_from_the_models_own_generation_config(tiny_artifact, tokenizer):
    base = load_weights(tiny_artifact)
    base.generation_config.repetition_penalty = 5.0
    model = LanguageModel(adapted(base, "prompt"), tokenizer, tiny_artifact)
    model.not_shared = "for the test"
    prompt = tokenizer("Do you sell a red lamp?")["input_ids"]
    plain = model.generate([prompt], max_new_tokens=8)
    model.not_shared = None
    assert model.generate([prompt], max_new_tokens=8) == plain


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_other_families_are_measured_as_peft_runs_them(family, kind):
    """Learned positions, and a model that looks at a window."""
    pads = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    window = {"num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 8}
    model = adapted(random_model(family, **(pads if family == "gpt2" else window)), kind)
    assert why_not_shared(model) is None
    asked = requests_for(300)[::2]
    found = score_requests(model, asked, max_length=256, limit=Limit(512))
    expected = [sum(values) for values, _ in naive(model, asked)]
    assert [s.logprob for s in found] == pytest.approx(expected, abs=1e-4)


def test_the_virtual_tokens_run_once_for_all_requests(opened, requests, monkeypatch):
    assert opened.not_shared is None
    rows = []
    prompt = type(opened.model).get_prompt
    monkeypatch.setattr(
        type(opened.model),
        "get_prompt",
        lambda self, count, *a, **k: [rows.append(count), prompt(self, count, *a, **k)][1],
    )
    opened.loglikelihood(requests)
    assert rows == [1]


def test_an_adapter_longer_than_the_model_is_refused(tiny_artifact, tokenizer):
    model = adapted(load_weights(tiny_artifact), "prompt", count=256)
    with pytest.raises(UserError, match="256 virtual tokens leave no room in the model's length"):
        LanguageModel(model, tokenizer, tiny_artifact)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("prompt", {"hidden_size": 32}, "its virtual tokens have other widths"),
        ("prefix", {"num_key_value_heads": 4}, "size mismatch"),
        ("prefix", {"num_hidden_layers": 3}, "are for 3 layers, the model has 2"),
    ],
)
def test_virtual_tokens_of_another_model_are_not_opened(tiny_model, tmp_path, kind, changes, told):
    from transformers import AutoConfig, AutoModelForCausalLM

    other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model, **changes))
    adapted(other, kind).save_pretrained(tmp_path)
    artifact = Artifact("adapter", ModelRef("tiny", str(tiny_model)), path=str(tmp_path))
    with pytest.raises(UserError, match=f"does not fit the model: .*{told}"):
        open_artifact(artifact)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "CPT"}, "is CPT: of adapters with virtual tokens PROMPT_TUNING"),
        ({"task_type": None}, "names no task_type"),
    ],
)
def test_an_adapter_that_cannot_be_measured_is_refused_before_it_is_opened(
    tiny_artifact, tmp_path, changes, told
):
    adapted(load_weights(tiny_artifact), "prompt").save_pretrained(tmp_path)
    assert resolve_adapter(str(tmp_path)).path == str(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ConfigError, match=told):
        resolve_adapter(str(tmp_path))


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture
def train(tiny_model, tmp_path):
    """`train("prefix", steps=2, lr=0.1)`: the job, its artifact and the trainer that made it."""
    made = []

    def run(name, steps=2, seed=7, rows=ROWS, **options):
        method = Plugins(discover=False).methods.get(name)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        work = job(folder, tiny_model, steps=steps, max_length=256)
        settings = {"options": method.Options(virtual_tokens=COUNT, **options), "seed": seed}
        work = Job(**{**vars(work), **settings, "train": rows, "validation": rows[:2]})
        artifact = method.train(work)
        return work, artifact, made[-1]

    trainer = sft._trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "_trainer", lambda *given: made.append(trainer(*given)) or made[-1])
        yield run


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prompt", {}),
        ("prompt", {"gradient_checkpointing": True}),
        ("prompt", {"reparametrize": "mlp"}),
        ("prefix", {}),
        ("prefix", {"projection": 16}),
    ],
)
def test_the_trained_loss_is_that_of_each_row_by_itself(train, name, options):
    """TRL's fused head, shifted labels and padding, against peft's forward pass; and saved so."""
    import torch

    work, artifact, trainer = train(name, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    assert not batch["attention_mask"].all(), "no padding in the batch"
    total = tokens = 0
    model = trainer.model.eval()
    opened = open_artifact(artifact)
    with torch.no_grad(), head_on_trained_positions():
        found = float(trainer.compute_loss(model, dict(batch)))
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        ):
            row = {"input_ids": ids[mask.bool()][None], "labels": labels[mask.bool()][None]}
            count = int((row["labels"] != -100).sum())
            losses = [float(one(**row).loss) for one in (model, opened.model)]
            assert losses[0] == pytest.approx(losses[1], abs=1e-5)
            total, tokens = total + losses[0] * count, tokens + count
    assert found == pytest.approx(total / tokens, abs=1e-5)
    assert {f.suffix for f in work.folder.iterdir()} == {".safetensors", ".json", ".md"}
    frozen = dict(load_weights(Artifact("base", work.model)).named_parameters())
    for key, parameter in model.get_base_model().named_parameters():
        assert torch.equal(parameter, frozen[key])


def gradients(model, batch):
    model.train()
    model.zero_grad()
    model(**batch).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_changes_no_gradient_of_prompt_tuning(train):
    import torch

    trainer = train("prompt", gradient_checkpointing=True)[2]
    batch = next(iter(trainer.get_train_dataloader()))
    with_it = gradients(trainer.model, batch)
    trainer.model.get_base_model().gradient_checkpointing_disable()
    without = gradients(trainer.model, batch)
    assert with_it
    for key, gradient in without.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(with_it[key], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_the_loss_falls_and_the_seed_decides_the_first_values(train, name):
    work, _, _ = train(name, steps=8, lr=0.05)
    losses = [point["loss"] for point in work.notes["loss_curve"]]
    assert losses[-1] < losses[0] - 0.2
    per_token = 64 if name == "prompt" else 2 * 2 * 32  # width; keys and values of two layers
    assert work.notes["trainable_parameters"] == COUNT * per_token
    again, _, _ = train(name, steps=8, lr=0.05)
    assert [point["loss"] for point in again.notes["loss_curve"]] == losses
    other, _, _ = train(name, steps=8, lr=0.05, seed=8)
    assert other.notes["loss_curve"][0]["loss"] != losses[0]


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_first_values_from_a_text_are_that_text_before_every_request(
    train, name, tokenizer, tiny_artifact
):
    artifact = train(name, lr=1e-12, init_text=TEXT)[1]
    words = tokenizer(TEXT)["input_ids"]
    assert len(words) > COUNT
    asked = requests_for(len(tokenizer))[:6]
    found = open_artifact(artifact).loglikelihood(asked)
    base = open_artifact(tiny_artifact)
    told = base.loglikelihood([([*words[:COUNT], *context], rest) for context, rest in asked])
    assert [s.logprob for s in found] == pytest.approx([s.logprob for s in told], abs=1e-4)


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_the_best_checkpoint_is_what_is_kept(train, name):
    """A rate so high that the last step is worse than the first."""
    options = {"lr": 1.0, "schedule": "constant_with_warmup", "validate_every": 2}
    work, artifact, trainer = train(name, steps=6, keep_best=True, **options)
    points = [p for p in work.notes["loss_curve"] if "validation_loss" in p]
    best = min(points, key=lambda point: point["validation_loss"])
    assert work.notes["best_checkpoint"] == best["step"]
    trainer.model = open_artifact(artifact).model
    batch = next(iter(trainer.get_eval_dataloader()))
    import torch

    with torch.no_grad():
        loss = float(trainer.model(**batch).loss)
    assert loss == pytest.approx(best["validation_loss"], abs=1e-4)


def test_rows_too_long_with_virtual_tokens_are_refused(train, tokenizer):
    from harness.types import Row

    long = Row("long", text=" ".join(["a lamp costs three coins"] * 100))
    with pytest.raises(UserError, match=r"rows of 256 tokens exceed the model's length of 256: "):
        train("prompt", rows=[long] * 4)


# ---- experiments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"name": "prompt", "packing": True}, "virtual tokens stand before every row"),
        ({"name": "prefix", "packing": True}, "virtual tokens stand before every row"),
        ({"name": "prefix", "gradient_checkpointing": True}, "drops the key/value cache"),
        (
            {"name": "prompt", "reparametrize": "mlp", "init_text": "x"},
            "leave out it or init_text",
        ),
        (
            {"name": "prefix", "projection": 8, "keep_best": True, "validate_every": 1},
            "keep_best cannot load what projection: 8 made",
        ),
        ({"name": "prefix", "virtual_tokens": 0}, "virtual_tokens"),
    ],
)
def test_what_does_not_go_together_is_one_line_before_anything_runs(experiment, method, told):
    small = experiment(methods=["base", method])
    with pytest.raises(ConfigError, match=told) as caught:
        make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(str(small.file))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_model, warm):
    """Both methods through every way of asking, and one of them again as made elsewhere."""
    small = write_experiment(
        tmp_path_factory.mktemp("virtual"),
        tiny_model,
        methods=["base", {"name": "prompt", "lr": 0.1}, {"name": "prefix", "lr": 0.1}],
    )
    outcome = run_warm(small, warm)
    assert not outcome.failed
    made = small.out / "artifacts" / small.records()["prefix-0"]["id"]
    elsewhere = small.folder / "elsewhere"
    shutil.copytree(made, elsewhere)
    (elsewhere / "training.json").unlink()  # sealed: what was trained here stays as it was
    (elsewhere / "chat_template.jinja").write_text(CHATML)
    method = {"name": "external", "adapter": str(elsewhere), "label": "theirs"}
    small = small.write(methods=["base", method])
    assert not run_warm(small, warm).failed
    return small.records()


def figures(record):
    return {
        f"{suite}.{name}": metric["value"]
        for suite, section in record["evaluation"]["suites"].items()
        for name, metric in section["metrics"].items()
    }


def test_every_way_of_asking_measures_them(ran):
    base = figures(ran["base-0"])
    for label in ("prompt-0", "prefix-0"):
        record = ran[label]
        assert record["evaluation"]["passes"]["shared_prefixes"]
        found = figures(record)
        assert set(found) == set(base)
        assert {suite.partition(".")[0] for suite in found} == set(record["plan"]["suites"])
        assert found["predicts.perplexity"] != base["predicts.perplexity"]
        notes = record["evaluation"]["suites"]["predicts"]["notes"]
        assert notes["context"] == 256 - 20


def test_an_adapter_made_elsewhere_is_measured_alike(ran):
    assert figures(ran["theirs-0"]) == pytest.approx(figures(ran["prefix-0"]))
