import { join } from "node:path";
import { z } from "zod";
import { openSafetensors, readJsonObject, readStorage, writeJson, writeSafetensors } from "../../checkpoints/index.ts";
import { EspalierError, type Variable } from "../../graph/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { Values } from "../../train/search/space.ts";
import type { Population } from "./population.ts";

export interface StackedPopulationOptions {
  device: Device;
  /** Weights and moments, [members, …], with names that differ. */
  variables: readonly Variable[];
  /** Trains all members by one step, which counts from 1. Values are inputs of the program: one that is compiled for them would be compiled anew by every exploration. */
  step(step: number, values: readonly Values[]): Promise<void>;
  /** As {@link Population.evaluate}. */
  evaluate(): Promise<readonly number[]>;
}

const [tensorFile, stateFile] = ["members.safetensors", "members.json"];

/** A population that is one graph: its variables have a leading axis of members, so one run trains all of them, and copying is moving a slice along it. */
export class StackedPopulation implements Population {
  readonly #o: StackedPopulationOptions;
  #step = 0;

  constructor(options: StackedPopulationOptions) {
    this.#o = options;
  }

  async train(values: readonly Values[], steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) await this.#o.step(++this.#step, values);
  }

  evaluate(): Promise<readonly number[]> {
    return this.#o.evaluate();
  }

  async copy(from: number, to: number): Promise<void> {
    const { device, variables } = this.#o;
    await device.toHost(variables);
    for (const v of variables) {
      const { data } = device.read(v);
      const size = data.length / v.shape[0]!;
      device.write(v, data.copyWithin(to * size, from * size, (from + 1) * size));
    }
  }

  /** Also what is no longer finite: a member that is lost is replaced by and by. */
  async save(directory: string): Promise<void> {
    const { device, variables } = this.#o;
    await device.toHost(variables);
    writeSafetensors(join(directory, tensorFile), new Map(variables.map((v) => [v.name, { kind: "memory", ...device.read(v) }])));
    writeJson(join(directory, stateFile), { step: this.#step });
  }

  async load(directory: string): Promise<void> {
    const { device, variables } = this.#o;
    const file = join(directory, tensorFile);
    const { tensors } = openSafetensors(file);
    const found = variables.map((v) => {
      const tensor = tensors.get(v.name);
      if (tensor && tensor.dtype === v.dtype && tensor.shape.join() === v.shape.join()) return readStorage(tensor);
      throw new EspalierError(
        "checkpoint-mismatch",
        `${file}: "${v.name}" is ${tensor ? `${tensor.dtype} [${tensor.shape.join(", ")}]` : "missing"}, and this population has ${v.dtype} [${v.shape.join(", ")}]. It was written by another one.`,
      );
    });
    const { step } = z.object({ step: z.int().nonnegative() }).parse(readJsonObject(join(directory, stateFile)));
    for (const [i, v] of variables.entries()) device.write(v, found[i]!);
    this.#step = step;
  }
}
