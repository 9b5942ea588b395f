"""Import unsloth and make three GRPO steps with it; print how that ended as one JSON object.

Runs in the interpreter of an environment that `execute_pairs` made, on a machine without a GPU.
unsloth refuses to be imported there, and ``UNSLOTH_ALLOW_CPU`` would skip the rewriting of trl's
trainers that matters. So for the import ``torch.cuda`` reports an A100, and no longer for the steps:
they run uncompiled on the CPU, with a tiny Qwen2 under LoRA through the trainer that unsloth wrote.
"""

import contextlib
import importlib
import json
import os
import tempfile
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

PACKAGES = ("unsloth", "unsloth_zoo")
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "big", "small"]
SPECIAL = ["<pad>", "<eos>", "<unk>"]
GIB = 1024**3


def main() -> None:
    """Print the outcome of the import and of the steps."""
    torch = importlib.import_module("torch")
    with made_up_gpu(torch):
        outcome = tried(import_unsloth)
    if outcome["outcome"] == "runs":
        with mock.patch("torch.cuda.synchronize"):  # called wherever the device is said to be CUDA
            outcome = {"outcome": "imports", "grpo": tried(train)}
    print(json.dumps(outcome))


def tried(step: Any) -> dict[str, Any]:
    """Run a step; return what Python raised and where, if anything."""
    try:
        found = step()
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever ends it is the outcome
        traceback.print_exc()
        return {
            "outcome": "fails",
            "exception": type(error).__name__,
            "message": str(error).strip().partition("\n")[0],
            "at": place(error),
        }
    return {"outcome": found or "runs"}


def place(error: BaseException) -> str:
    """Return the innermost line of the packages that are followed, else the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if any(p in Path(f.filename).parts for p in PACKAGES)]
    written = [f for f in frames if "unsloth_compiled_cache" in f.filename]
    frame = (written or own or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"


@contextlib.contextmanager
def made_up_gpu(torch: Any) -> Iterator[None]:
    """Let ``torch.cuda`` report an A100."""
    properties = types.SimpleNamespace(
        name="NVIDIA A100-SXM4-80GB",
        major=8,
        minor=0,
        total_memory=80 * GIB,
        multi_processor_count=108,
        gcnArchName="",
        warp_size=32,
        max_threads_per_multi_processor=2048,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=166912,
        shared_memory_per_multiprocessor=167936,
        is_multi_gpu_board=0,
        is_integrated=0,
        L2_cache_size=41943040,
    )
    reported = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (8, 0),
        "get_device_name": properties.name,
        "get_device_properties": properties,
        "is_bf16_supported": True,
        "mem_get_info": (79 * GIB, 80 * GIB),
        "memory_reserved": 0,
        "max_memory_reserved": 0,
        "get_arch_list": ["sm_80", "sm_90"],
        "synchronize": None,
        "empty_cache": None,
        "init": None,
        "set_device": None,
        "_lazy_init": None,
        "memory_allocated": 0,
        "current_stream": mock.MagicMock(),
    }
    values = {name: mock.MagicMock(return_value=value) for name, value in reported.items()}
    with contextlib.ExitStack() as stack:
        for module in (torch.cuda, torch.cuda.memory):
            there = {name: value for name, value in values.items() if hasattr(module, name)}
            stack.enter_context(mock.patch.multiple(module, **there))
        stack.enter_context(
            mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda _: 0, create=True)
        )
        yield


def import_unsloth() -> None:
    """Import unsloth, and have it rewrite trl's trainers if importing did not."""
    active = mock.MagicMock()
    active.get_current_target.return_value = types.SimpleNamespace(
        backend="cuda", arch=80, warp_size=32
    )
    driver = importlib.import_module("triton.runtime.driver").driver
    driver.set_active(active)
    with mock.patch("triton.backends.nvidia.driver.libcuda_dirs", list, create=True):
        unsloth = importlib.import_module("unsloth")
        trl = importlib.import_module("trl")
        if not trl.GRPOTrainer.__name__.startswith("Unsloth"):
            unsloth.PatchFastRL("GRPO", unsloth.FastLanguageModel)
    driver.reset_active()


def tokenizer_of_words() -> Any:
    """Return a tokenizer that knows a dozen words."""
    tokenizers = importlib.import_module("tokenizers")
    transformers = importlib.import_module("transformers")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_model() -> Any:
    """Return a random Qwen2 under LoRA that gives hidden states for logits where unsloth asks."""
    torch = importlib.import_module("torch")
    transformers, peft = importlib.import_module("transformers"), importlib.import_module("peft")
    config = transformers.Qwen2Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        torch_dtype=torch.float32,
    )

    class Qwen2(transformers.Qwen2ForCausalLM):  # type: ignore[misc,name-defined]
        def forward(self, *args: Any, **keywords: Any) -> Any:
            asked = os.environ.get("UNSLOTH_RETURN_HIDDEN_STATES", "0") == "1"
            hidden = asked and not keywords.get("use_cache")  # as unsloth's: not while it generates
            keywords["output_hidden_states"] = hidden or keywords.get("output_hidden_states")
            found = super().forward(*args, **keywords)
            if hidden:
                keep = keywords.get("logits_to_keep", 0)
                found.logits = found.hidden_states[-1][:, -keep if keep else None :]
            return found

    model = peft.get_peft_model(
        Qwen2(config),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    model.enable_input_require_grads()  # as unsloth's get_peft_model does
    model.for_training = model.for_inference = lambda *_, **__: model
    return model


def reward(completions: list[str], **_: object) -> list[float]:
    """Reward the letter e and short texts, so that the advantages of a group differ."""
    return [text.count("e") - 0.1 * len(text) for text in completions]


def train() -> str | None:
    """Make three steps with the trainer that unsloth wrote, if it wrote one."""
    trl = importlib.import_module("trl")
    datasets = importlib.import_module("datasets")
    if not trl.GRPOTrainer.__name__.startswith("Unsloth"):
        return "not generated"
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=tiny_model(),
            reward_funcs=[reward],
            processing_class=tokenizer_of_words(),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["the cat sat on", "a dog"] * 8}),
            args=trl.GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=4,
                num_generations=4,
                max_completion_length=8,
                max_steps=3,
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                bf16=False,
                fp16=False,
                save_strategy="no",
                disable_tqdm=True,
                optim="adamw_torch",  # the default of unsloth, eight bits, needs a GPU
            ),
        )
        trainer.train()
    return None


if __name__ == "__main__":
    main()
