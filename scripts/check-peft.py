"""Optional check against the real peer: loads adapters that Espalier saved with Hugging Face PEFT.

    pip install torch transformers peft
    npx tsx scripts/write-adapters.ts <directory>
    python scripts/check-peft.py --all <directory>

compares the logits of an adapter of every kind, and ends with 1 where they differ by more than 1e-4. The other direction, adapters that PEFT
saved, is tested with the fixtures tests/fixtures/peft-*.

    python scripts/check-peft.py --base <directory> --adapter <directory> --input-ids '[[5, 6, 7]]' [--attention-mask '[[1, 1, 1]]']
                                 [--pad-token-id 0] [--merge]

prints the logits of one adapter as JSON: the last line of the output is {"versions", "task", "shape", "logits"}. The task comes from
adapter_config.json: CAUSAL_LM gives [batch, time, vocabulary], SEQ_CLS gives [batch, labels]; the number of labels is that of the saved
head (modules_to_save).
With an attention mask, positions count from the first token that it keeps, as generate() counts them. Float32 on the CPU.
"""

import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--all", type=Path, help="what scripts/write-adapters.ts has written")
parser.add_argument("--base", type=Path)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--input-ids", type=json.loads)
parser.add_argument("--attention-mask", type=json.loads)
parser.add_argument("--pad-token-id", type=int)
parser.add_argument("--merge", action="store_true", help="merge the adapter into the base weights first")


def load(base, adapter, pad_token_id=None):
    """The adapter on its base model, and its task."""
    task = json.loads((adapter / "adapter_config.json").read_text()).get("task_type") or "CAUSAL_LM"
    arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
    if pad_token_id is not None:
        arguments["pad_token_id"] = pad_token_id
    if task == "SEQ_CLS":
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            heads = [file.get_slice(name).get_shape() for name in file.keys() if name.endswith(("score.weight", "classifier.weight"))]
        if len(heads) != 1:
            parser.error(f"{adapter}: expected one saved head (score.weight or classifier.weight), found {len(heads)}")
        loader = transformers.AutoModelForSequenceClassification
        arguments["num_labels"] = heads[0][0]
    else:
        loader = transformers.AutoModelForCausalLM
    return peft.PeftModel.from_pretrained(loader.from_pretrained(base, **arguments), adapter).eval(), task


@torch.no_grad()
def compare(directory):
    """The largest difference between PEFT's logits and those that Espalier has recorded. Virtual tokens have none here."""
    recorded = json.loads((directory / "espalier.json").read_text())
    expected = load_file(directory / "espalier.safetensors")["logits"]
    model, _ = load(recorded["base"], directory, pad_token_id=0)
    logits = model(input_ids=torch.tensor(recorded["input_ids"])).logits
    if logits.dim() == 3:
        logits = logits[:, -expected.shape[1] :]
    return (logits - expected).abs().max().item(), expected.abs().max().item()


options = parser.parse_args()
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}

if options.all is not None:
    worst = 0.0
    for directory in sorted(path.parent for path in options.all.glob("*/espalier.json")):
        difference, size = compare(directory)
        worst = max(worst, difference)
        print(f"{directory.name:24} {difference:.1e} of {size:.1f}")
    print(json.dumps({"versions": versions, "largest_difference": worst}))
    raise SystemExit(worst > 1e-4)

if options.base is None or options.adapter is None or options.input_ids is None:
    parser.error("give --all, or --base, --adapter and --input-ids")
model, task = load(options.base, options.adapter, options.pad_token_id)
if options.merge:
    model = model.merge_and_unload().eval()

inputs = {"input_ids": torch.tensor(options.input_ids)}
if options.attention_mask is not None:
    mask = torch.tensor(options.attention_mask)
    inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
with torch.no_grad():
    logits = model(**inputs).logits
print(json.dumps({"versions": versions, "task": task, "shape": list(logits.shape), "logits": logits.tolist()}))
