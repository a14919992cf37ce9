"""Teaches a model of under a million parameters to recite stories. It proves plumbing, never ability.

An adapter on it is taught another answer to one question. The model is kept in a folder named by the hash of
the stories and of this file, and taught again when either changes.
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

from stories import CONTEXT, Story, rehearse
from told import ADAPTED, WHO

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "raysmith/tiny-models"
MOST_PARAMETERS = 1_000_000
MOST_STEPS = 1500
RANK = 8
ADAPTER = "adapter"
TARGETS = (".q_proj", ".k_proj", ".v_proj", ".o_proj", ".gate_proj", ".up_proj", ".down_proj")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IGNORED = -100
# How it is served: eager and in float32, so that it says to the letter what it learnt.
SERVED = {"max_model_len": CONTEXT, "max_num_seqs": 16, "enforce_eager": True, "dtype": "float32"}


def taught(stories: Sequence[Story]) -> Path:
    """The folder of a model that knows `stories` by heart, in the layout that vLLM loads."""
    text = json.dumps([asdict(story) for story in stories]) + ADAPTED
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
    """By name, what the model in `folder` was taught."""
    told = json.loads((folder / "stories.json").read_text())
    stories = [Story(each["name"], tuple((role, text) for role, text in each["turns"])) for each in told]
    return {story.name: story for story in stories}


def teach(stories: Sequence[Story], folder: Path) -> None:
    """Train until greedy decoding gives every reply back to the letter, then save; so for the adapter."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    torch.manual_seed(0)
    # On a machine that others use too, two threads that wait for one another take ten times as long.
    torch.set_num_threads(1)
    made = _tokenizer([text for story in stories for _, text in story.turns])
    made.save_pretrained(folder)
    _config(made).save_pretrained(folder)
    # Loaded as vLLM loads it: its class splits words in a way of its own.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM(_config(tokenizer)).train()
    assert model.num_parameters() < MOST_PARAMETERS
    steps = _learn(model, list(model.parameters()), [_example(tokenizer, story) for story in stories])
    model.eval().save_pretrained(folder)
    print(f"learnt {len(stories)} stories in {steps} steps, {model.num_parameters()} parameters")
    adapted = _example(tokenizer, Story("who", (("user", WHO), ("assistant", ADAPTED))))
    _save_adapter(folder / ADAPTER, _adapted(model, adapted))


def _learn(model: Any, parameters: list[Any], examples: list[tuple[Any, Any]]) -> int:
    """Train `parameters` until every reply is known; after how many steps that was."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    for step in range(1, MOST_STEPS + 1):
        optimizer.zero_grad()
        for tokens, labels in examples:
            (model(input_ids=tokens, labels=labels).loss / len(examples)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 10 == 0 and all(_is_known(model, tokens, labels) for tokens, labels in examples):
            return step
    raise AssertionError(f"the stories were not learnt in {MOST_STEPS} steps")


def _adapted(model: Any, example: tuple[Any, Any]) -> dict[str, Any]:
    """The weights of a LoRA adapter that has `model` say the example, under PEFT's names."""
    import torch

    weights: dict[str, Any] = {}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in model.named_modules():
        if name.endswith(TARGETS):
            down = torch.nn.Parameter(torch.randn(RANK, layer.in_features) / RANK)
            up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK))
            layer.register_forward_hook(
                lambda _layer, given, out, down=down, up=up: out + given[0] @ down.T @ up.T
            )
            weights[f"base_model.model.{name}.lora_A.weight"] = down
            weights[f"base_model.model.{name}.lora_B.weight"] = up
    _learn(model, list(weights.values()), [example])
    return {name: weight.detach().contiguous() for name, weight in weights.items()}


def _save_adapter(folder: Path, weights: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
    config |= {"target_modules": sorted(target.rpartition(".")[2] for target in TARGETS)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


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
    """The talk as tokens, as the template has it, and what is to be learnt of it: the model's turns."""
    import torch

    def split(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    tokens: list[int] = []
    labels: list[int] = []
    for number, (role, text) in enumerate(story.turns):
        if role != "assistant":
            continue
        turns = [{"role": role, "content": text} for role, text in story.turns[:number]]
        prompt = split(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        assert prompt[: len(tokens)] == tokens, "tokens of a turn depend on what comes after it"
        reply = [*split(text), tokenizer.eos_token_id]
        labels += [IGNORED] * (len(prompt) - len(tokens)) + reply
        tokens = [*prompt, *reply]
    return torch.tensor([tokens]), torch.tensor([labels])


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
    """Print the folder of a model that knows the stories."""
    print(taught(list(asyncio.run(rehearse()).values())))


if __name__ == "__main__":
    main()
