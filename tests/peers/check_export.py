"""Is what `espalier export` and `espalier merge` wrote what Python's tools take it for?

    python tests/peers/check_export.py <exported directory> --source <model directory> [--adapter <adapter directory>]
    python tests/peers/check_export.py <merged directory> --source <model directory> --adapter <adapter directory>

Every graph must pass onnx.checker with full_check (shapes inferred and compared). Decoders' logits, a left-padded prompt and a step after it, and the logits of
a merged directory that transformers opens, must be those that transformers and PEFT have from the source. Needs torch, transformers, peft, onnx and onnxruntime.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("directory", type=Path)
parser.add_argument("--source", type=Path, required=True)
parser.add_argument("--adapter", type=Path)
options = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(options.source, dtype=torch.float32, attn_implementation="eager").eval()
if options.adapter:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, options.adapter).eval()
generator = torch.Generator().manual_seed(0)
ids = torch.randint(3, model.config.vocab_size, (2, 12), generator=generator)
mask = torch.ones_like(ids)
mask[1, :5] = 0
positions = (mask.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def reference(ids, mask, positions):
    takes_positions = model.config.model_type not in ("bloom", "opt")
    return model(input_ids=ids, attention_mask=mask, **({"position_ids": positions} if takes_positions else {})).logits.numpy()


def report(what, got, expected, mask, tolerance):
    difference = np.abs(got - expected)[mask.numpy() == 1].max()
    print(f"{what}: {difference:.2e} of {np.abs(expected).max():.3g}")
    assert difference <= tolerance * np.abs(expected).max(), f"{what} differs"


def run(session, ids, mask, positions, past):
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "position_ids": positions.numpy(), **past}
    names = [o.name for o in session.get_outputs()]
    results = dict(zip(names, session.run(names, feeds)))
    return results["logits"], {k.replace("present", "past_key_values"): v for k, v in results.items() if k.startswith("present")}


graphs = sorted((options.directory / "onnx").glob("*.onnx"))
for file in graphs:
    onnx.checker.check_model(str(file), full_check=True)
    domains = {n.domain for n in onnx.load(str(file), load_external_data=False).graph.node}
    assert domains <= {""}, domains
    print(f"{file.name}: checked")
    session = onnxruntime.InferenceSession(str(file))
    pasts = [i for i in session.get_inputs() if i.name.startswith("past_key_values")]
    tolerance = 0.15 if "quantized" in file.name else 0.01 if "fp16" in file.name else 1e-4
    empty = {i.name: np.zeros([2, i.shape[1], 0, i.shape[3]], np.float32) for i in pasts}
    logits, past = run(session, ids, mask, positions, empty)
    report(f"{file.name}, prompt", logits, reference(ids, mask, positions), mask, tolerance)
    following = ids[:, :1]
    longer = torch.cat([mask, torch.ones_like(following)], 1)
    places = torch.cat([positions, positions[:, -1:] + 1], 1)
    logits, _ = run(session, following, longer, places[:, -1:], past)
    expected = reference(torch.cat([ids, following], 1), longer, places)[:, -1:]
    report(f"{file.name}, step", logits, expected, torch.ones_like(following), tolerance)

if (options.directory / "model.safetensors").exists():
    merged = AutoModelForCausalLM.from_pretrained(options.directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = merged(input_ids=ids, attention_mask=mask, position_ids=positions).logits.numpy()
    report("merged", logits, reference(ids, mask, positions), mask, 1e-4)
elif not graphs:
    raise SystemExit(f"{options.directory} holds neither onnx/*.onnx nor model.safetensors")
