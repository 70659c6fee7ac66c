import { writeFileSync } from "node:fs";
import { Command } from "commander";
import { EspalierError, elementCount } from "../../graph/index.ts";
import { loadCausalLM } from "../../models/index.ts";
import { encode } from "../../onnx/index.ts";
import { MatmulPeak } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { estimateStep } from "../../train/estimate.ts";
import { applyWeights } from "../../train/method.ts";
import { causalLanguageModel } from "../../train/objectives/index.ts";
import { adamW, oneGroup } from "../../train/optimizers/index.ts";
import { traceStep } from "../../train/step.ts";
import { addRunOptions } from "../config/flags.ts";
import { methodOptions } from "../config/run-options.ts";
import { chosenMethods, type MethodFlags } from "../method-choice.ts";
import { modelDirectory } from "../model-directory.ts";
import { checkLength } from "../options.ts";
import { formatBytes, formatCount, formatPercent, Terminal } from "../terminal.ts";

interface InspectFlags extends MethodFlags {
  model: string;
  batchSize: number;
  maxLength: number;
  graph?: string;
  json?: boolean;
}

const methodKeys = Object.keys(methodOptions) as (keyof typeof methodOptions)[];

/** Of the matmul peak, what a whole step usually reaches: see the benches. */
const usualShareOfPeak = 0.75;

export function inspectCommand(): Command {
  const command = new Command("inspect").description("Show a model's size and what a training step would cost, before anything runs.");
  return addRunOptions(command, { keys: ["model", ...methodKeys, "batchSize", "maxLength"] })
    .option("--graph <file>", "write the training step as an .onnx file")
    .option("--json", "print the result as one JSON object in the last line")
    .action(async (flags: InspectFlags) => {
      const terminal = new Terminal();
      const directory = await modelDirectory(flags.model);
      const model = loadCausalLM(directory);
      checkLength(flags.maxLength, model, flags.model);
      applyWeights(model, await chosenMethods(flags, directory, 0));
      const count = (parameters: readonly { shape: readonly number[] }[]) => parameters.reduce((n, p) => n + elementCount(p.shape), 0);
      const [total, trainable] = [count(model.parameters()), count(model.trainableParameters())];
      const type = { dtype: "int64", shape: [flags.batchSize, flags.maxLength] } as const;
      const parameters = model.trainableParameters();
      const traced = traceStep(
        { ids: type, targets: type },
        {
          objective: causalLanguageModel(model),
          optimizer: adamW({ learningRate: 1e-3 }).create(oneGroup(parameters)),
          maxGradientNorm: 1,
        },
      );
      const estimate = estimateStep(traced);
      const peak = await MatmulPeak.create(cpu(), { size: 1024, products: 4 });
      await peak.measure();
      const stepSeconds = estimate.flops / ((await peak.measure()) * usualShareOfPeak);
      const memoryBytes = estimate.frozenBytes + estimate.stateBytes + estimate.activationBytes;
      terminal.line(
        `model            ${flags.model} (${model.config.model_type}, ${model.config.num_hidden_layers} layers of width ${model.config.hidden_size}, vocabulary ${formatCount(model.config.vocab_size)}, context ${model.config.max_position_embeddings})`,
      );
      terminal.line(`parameters       ${formatCount(total)}`);
      terminal.line(`trainable        ${formatCount(trainable)} (${formatPercent(trainable / total, 2)})`);
      terminal.line(`one step         ${flags.batchSize} × ${flags.maxLength} tokens, ${(estimate.flops / 1e9).toFixed(1)} GFLOP`);
      terminal.line(
        `estimated time   ${stepSeconds.toFixed(2)} s per step, ${formatCount(Math.round((flags.batchSize * flags.maxLength) / stepSeconds))} tokens/s`,
      );
      terminal.line(
        `estimated memory ${formatBytes(memoryBytes)}: weights ${formatBytes(estimate.frozenBytes)} (mapped), trained state ${formatBytes(estimate.stateBytes)}, intermediate values ${formatBytes(estimate.activationBytes)}`,
      );
      if (flags.graph) {
        writeGraph(flags.graph, traced, terminal);
      }
      if (flags.json) {
        terminal.json({
          model: flags.model,
          totalParameters: total,
          trainableParameters: trainable,
          gflopPerStep: estimate.flops / 1e9,
          estimatedStepSeconds: stepSeconds,
          estimatedMemoryMB: Math.round(memoryBytes / 1e6),
          ...(flags.graph && { graph: flags.graph }),
        });
      }
    });
}

function writeGraph(file: string, traced: ReturnType<typeof traceStep>, terminal: Terminal): void {
  const device = cpu();
  const { bytes } = encode(traced, { provider: "onnx", values: (variable, dtype) => device.platform.load(variable.storage, dtype) });
  try {
    writeFileSync(file, bytes);
  } catch (cause) {
    throw new EspalierError("not-writable", `${file} cannot be written: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  terminal.line(`graph            ${file} (${formatBytes(bytes.length)}, standard ONNX operators only)`);
}
