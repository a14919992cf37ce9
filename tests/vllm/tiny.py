"""Teaches a model of under a million parameters to recite stories. It proves plumbing, never ability.

The model is kept in a folder named by the hash of the stories and of this file, and taught again
when either changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stories import Story, rehearse

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raysmith/tiny-models"
MOST_PARAMETERS = 1_000_000
MOST_STEPS = 1500
CONTEXT = 4096
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IGNORED = -100
# How it is served: eager and in float32, so that it says to the letter what it learnt.
SERVED = {"max_model_len": CONTEXT, "max_num_seqs": 16, "enforce_eager": True, "dtype": "float32"}


def taught(stories: Sequence[Story]) -> Path:
    """The folder of a model that knows `stories` by heart, in the layout that vLLM loads."""
    text = json.dumps([[story.role, story.prompt, story.reply] for story in stories])
    key = hashlib.sha256(text.encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    folder = CACHE / key
    if not (folder / "config.json").is_file():
        made = CACHE / f".{key}-{os.getpid()}"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        teach(stories, made)
        (made / "stories.json").write_text(json.dumps([asdict(story) for story in stories]))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def known(folder: Path) -> dict[str, Story]:
    """By role, what the model in `folder` was taught."""
    return {each["role"]: Story(**each) for each in json.loads((folder / "stories.json").read_text())}


def teach(stories: Sequence[Story], folder: Path) -> None:
    """Train until greedy decoding gives every reply back to the letter, then save."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    torch.manual_seed(0)
    made = _tokenizer([part for story in stories for part in (story.prompt, story.reply)])
    made.save_pretrained(folder)
    _config(made).save_pretrained(folder)
    # Loaded as vLLM loads it: its class splits words in a way of its own.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM(_config(tokenizer)).train()
    assert model.num_parameters() < MOST_PARAMETERS
    examples = [_example(tokenizer, story) for story in stories]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, MOST_STEPS + 1):
        optimizer.zero_grad()
        for tokens, labels in examples:
            (model(input_ids=tokens, labels=labels).loss / len(examples)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 and all(_is_known(model, tokens, labels) for tokens, labels in examples):
            break
    else:
        raise AssertionError(f"the stories were not learnt in {MOST_STEPS} steps")
    model.eval().save_pretrained(folder)
    print(f"learnt {len(stories)} stories in {step} steps, {model.num_parameters()} parameters")


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def _example(tokenizer: Any, story: Story) -> tuple[Any, Any]:
    import torch

    turn = [{"role": "user", "content": story.prompt}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = [*tokenizer(story.reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    labels = [IGNORED] * len(asked) + reply
    return torch.tensor([[*asked, *reply]]), torch.tensor([labels])


def _is_known(model: Any, tokens: Any, labels: Any) -> bool:
    """Whether every token of the reply is the likeliest by a clear margin, given the ones before it."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0, :-1]
    wanted = labels[0, 1:]
    asked = wanted != IGNORED
    best = torch.topk(logits.softmax(-1)[asked], 2).values
    is_right = logits.argmax(-1)[asked] == wanted[asked]
    return bool(is_right.all()) and bool((best[:, 0] - best[:, 1]).min() > 0.5)


def main() -> None:
    """Print the folder of a model that knows the `/add` story."""
    stories, outcome = asyncio.run(rehearse())
    assert outcome.reason == "certified", outcome
    print(taught(stories))


if __name__ == "__main__":
    main()
