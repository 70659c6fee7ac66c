"""A training step of `bench/shapes.ts` in PyTorch, transformers and PEFT: same shape, same options, random weights, random batches.

    python step.py <directory of the checkpoint> <step as JSON> [--compile] [--bf16]

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
parser.add_argument("directory")
parser.add_argument("step", type=json.loads)
parser.add_argument("--compile", action="store_true", help="the model through torch.compile")
parser.add_argument("--bf16", action="store_true", help="the forward pass under bfloat16 autocast")
options = parser.parse_args()
batch, length, lora = options.step["batch"], options.step.get("time"), options.step.get("lora")

torch.manual_seed(0)
config = transformers.AutoConfig.from_pretrained(options.directory)
config.use_cache = False
model = getattr(transformers, config.architectures[0])(config)
if lora:
    heads = {"classifier"} & dict(model.named_children()).keys()
    # transformers 5 renames the projections of ViT.
    targets = lora["targets"] + [{"query": "q_proj", "value": "v_proj"}.get(name, name) for name in lora["targets"]]
    adapter = peft.LoraConfig(r=lora["rank"], lora_alpha=16, target_modules=targets, modules_to_save=list(heads) or None)
    model = peft.get_peft_model(model, adapter)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3)
if length:
    ids = torch.randint(config.vocab_size, (batch, length))
    inputs = {"input_ids": ids}
else:
    inputs = {"pixel_values": torch.randn(batch, 3, config.image_size, config.image_size)}
inputs["labels"] = ids if config.architectures[0].endswith("CausalLM") else torch.randint(config.num_labels, (batch,))
forward = torch.compile(model) if options.compile else model


def step():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        loss = forward(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def report(**figures):
    print(json.dumps(figures), flush=True)


# Two steps warm up; then each line asks for one, so that others can take theirs in between.
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
