"""The training step of `bench -- smollm2-lora` in PyTorch, transformers and PEFT: same shape, same options, random weights, random tokens.

    python smollm2_lora.py [--layers 30] [--vocabulary 49152] [--batch 4] [--time 256] [--compile] [--bf16]

Prints JSON, a line at a time: after two steps the largest resident size of the process, then for each line of input the time of one more step.
"""

import argparse
import json
import resource
import sys
import time

import peft
import torch
import transformers

parser = argparse.ArgumentParser()
for name, default in {"layers": 30, "vocabulary": 49152, "batch": 4, "time": 256}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--compile", action="store_true", help="the model through torch.compile")
parser.add_argument("--bf16", action="store_true", help="the forward pass under bfloat16 autocast")
options = parser.parse_args()

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=options.vocabulary,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=options.layers,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
    max_position_embeddings=2048,
    use_cache=False,
)
model = transformers.LlamaForCausalLM(config)
adapter = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = peft.get_peft_model(model, adapter)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3)
ids = torch.randint(options.vocabulary, (options.batch, options.time))
forward = torch.compile(model) if options.compile else model


def step():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        loss = forward(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def report(**figures):
    print(json.dumps(figures), flush=True)


# Two steps warm up; then each line asks for one, so that the caller can time its own in between.
step()
step()
report(
    # The kernel counts kB here.
    peakMemoryMB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    versions={"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
)
for _ in sys.stdin:
    started = time.perf_counter()
    step()
    report(seconds=time.perf_counter() - started)
