"""A chat model that is small enough to tune in a second: random weights, a token a byte, and a template of its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for message in messages %}<{{ message.role[0] }}>{{ message.content }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
CONTEXT = 256


def save_chat_model(folder: Path, *, seed: int = 0, width: int = 32, context: int = CONTEXT) -> Path:
    """A whole model in a folder."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "<u>", "<a>", "<e>"]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[-4:])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<e>", pad_token="<e>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=words.index("<e>"),
        pad_token_id=words.index("<e>"),
        tie_word_embeddings=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def save_text_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """An adapter of a model, as peft saves one, with random weights that show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, target_modules="all-linear")
        peft.get_peft_model(model, config).save_pretrained(folder)
    return folder
