"""Optional check against the real peer: loads an adapter that Espalier saved with Hugging Face PEFT and prints its logits as JSON.

    pip install torch transformers peft
    python scripts/check-peft.py --base <directory> --adapter <directory> --input-ids '[[5, 6, 7]]' [--attention-mask '[[1, 1, 1]]']
                                 [--pad-token-id 0] [--merge]

The last line of the output is {"versions", "task", "shape", "logits"}. The task comes from adapter_config.json: CAUSAL_LM gives
[batch, time, vocabulary], SEQ_CLS gives [batch, labels]; the number of labels is that of the saved head (modules_to_save).
With an attention mask, positions count from the first token that it keeps, as generate() counts them. Float32 on the CPU.
"""

import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--base", type=Path, required=True)
parser.add_argument("--adapter", type=Path, required=True)
parser.add_argument("--input-ids", type=json.loads, required=True)
parser.add_argument("--attention-mask", type=json.loads)
parser.add_argument("--pad-token-id", type=int)
parser.add_argument("--merge", action="store_true", help="merge the adapter into the base weights first")
options = parser.parse_args()

task = json.loads((options.adapter / "adapter_config.json").read_text()).get("task_type") or "CAUSAL_LM"
arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
if options.pad_token_id is not None:
    arguments["pad_token_id"] = options.pad_token_id
if task == "SEQ_CLS":
    with safe_open(options.adapter / "adapter_model.safetensors", "pt") as file:
        heads = [file.get_slice(name).get_shape() for name in file.keys() if name.endswith(("score.weight", "classifier.weight"))]
    if len(heads) != 1:
        parser.error(f"{options.adapter}: expected one saved head (score.weight or classifier.weight), found {len(heads)}")
    loader = transformers.AutoModelForSequenceClassification
    arguments["num_labels"] = heads[0][0]
else:
    loader = transformers.AutoModelForCausalLM

model = peft.PeftModel.from_pretrained(loader.from_pretrained(options.base, **arguments), options.adapter)
if options.merge:
    model = model.merge_and_unload()
model.eval()

inputs = {"input_ids": torch.tensor(options.input_ids)}
if options.attention_mask is not None:
    mask = torch.tensor(options.attention_mask)
    inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
with torch.no_grad():
    logits = model(**inputs).logits

versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
print(json.dumps({"versions": versions, "task": task, "shape": list(logits.shape), "logits": logits.tolist()}))
