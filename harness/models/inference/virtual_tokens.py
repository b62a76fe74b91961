"""Virtual tokens that an adapter puts before every request, for passes over shared prefixes.

Either embeddings (Lester et al. 2021, arXiv 2104.08691; Liu et al. 2021, arXiv 2103.10385) or keys
and values of each layer (Li & Liang 2021, arXiv 2101.00190). As in peft's PeftModelForCausalLM a
request's first token has position N after N virtual ones, and every token attends to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError, is_out_of_memory
from harness.models.inference.lm_head import states
from harness.models.inference.tree_attention import Block, Past, laid_out, lay_out

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

EMBEDDED = ("PROMPT_TUNING", "P_TUNING")
CACHED = ("PREFIX_TUNING", "CARTRIDGE")


@dataclass(frozen=True)
class VirtualTokens:
    """The virtual tokens of a PeftModel's adapter."""

    model: CausalLM
    count: int
    cached: bool
    """Keys and values instead of embeddings."""

    def past(self) -> Past:
        """Their keys and values, which everything continues; called where `attending` holds."""
        import torch

        past = Past()
        prompt = self.model.get_prompt(1)
        if self.cached:
            for number, layer in enumerate(prompt.layers):
                past.keys[number], past.values[number] = layer.keys, layer.values
            return past
        inner = self.model.get_base_model()
        device = prompt.device
        block = Block(0, None, range(-1, self.count - 1), past)
        with laid_out(lay_out([block], device)):
            states(
                inner,
                inputs_embeds=prompt.to(self.model.word_embeddings.weight.dtype),
                position_ids=torch.arange(self.count, device=device)[None],
                use_cache=False,
            )
        return past

    def before(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, object]:
        """The body's keywords for `ids` (rows, tokens) with the virtual tokens before each row."""
        import torch

        mask = torch.cat([mask.new_ones(len(mask), self.count), mask], dim=1)
        prompt = self.model.get_prompt(len(ids))
        if self.cached:
            return {"input_ids": ids, "attention_mask": mask, "past_key_values": prompt}
        embeddings = self.model.word_embeddings(ids)
        embedded = torch.cat([prompt.to(embeddings.dtype), embeddings], dim=1)
        return {"inputs_embeds": embedded, "attention_mask": mask}


def virtual_tokens(model: CausalLM) -> VirtualTokens | None:
    """Those of the adapter on `model`; None where it has none. Raises UserError as `refusal`."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind not in EMBEDDED + CACHED:
        raise UserError(f"the adapter {_unsupported(kind)}")
    return VirtualTokens(model, config.num_virtual_tokens, kind in CACHED)


def refusal(config: Mapping[str, object]) -> str | None:
    """Why an adapter of this `adapter_config.json` cannot be evaluated; None where it can."""
    if not config.get("num_virtual_tokens"):
        return None
    if config.get("peft_type") not in EMBEDDED + CACHED:
        return _unsupported(str(config.get("peft_type")))
    if not config.get("task_type"):
        return "names no task_type, so peft would leave its virtual tokens out: set CAUSAL_LM"
    return None


def misfit(model: CausalLM) -> str | None:
    """Why the virtual tokens on a PeftModel do not fit the model; None where they do.

    peft loads those of any model: what does not fit breaks in the first forward pass, and keys and
    values for more layers than there are do nothing.
    """
    import torch

    if virtual_tokens(model) is None:
        return None
    expected = model.active_peft_config.num_layers
    layers = model.config.get_text_config().num_hidden_layers
    if expected != layers:
        return f"its virtual tokens are for {expected} layers, the model has {layers}"
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return f"its virtual tokens have other widths ({' '.join(str(error).split())[:120]})"
    return None


def _unsupported(kind: str) -> str:
    supported = ", ".join(EMBEDDED + CACHED)
    return f"is {kind}: of adapters with virtual tokens {supported} can be measured"
