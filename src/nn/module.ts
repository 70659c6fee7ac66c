import { rematerialise } from "../autodiff/index.ts";
import { atPath, EspalierError, type MemoryStorage, nearestNames, read, type Storage, type Tensor, Variable } from "../graph/index.ts";
import { adaptersAreOff } from "./base-only.ts";
import { rematerialisesBlocks } from "./mode.ts";
import { tap } from "./taps.ts";

/** A weight of a module. Frozen parameters become constants of the program; the others are trained. */
export class Parameter extends Variable {
  constructor(shape: readonly number[], storage: () => Storage, options: { frozen?: boolean } = {}) {
    super("", { dtype: "float32", shape }, storage, options);
  }

  /** The present value, in the graph being traced. */
  get value(): Tensor {
    return read(this);
  }
}

type Child = Module | Parameter;

/** A module of one tensor: what a Linear is, and what may stand in its place. */
export type Layer = Module & { forward(x: Tensor): Tensor };

/**
 * A part of a model: its fields are parameters and other modules, and a field's path is the parameter's name
 * (`model.layers.3.self_attn.q_proj.weight`), so a Hugging Face checkpoint loads by name. `forward` is traced.
 */
export abstract class Module {
  #path = "";

  constructor() {
    // Every node that forward adds carries this module's path.
    const forward = this.forward;
    const run = (...args: never[]) => (this.#path === "" ? forward.apply(this, args) : atPath(this.#path, () => forward.apply(this, args)));
    this.forward = (...args: never[]) => {
      const below = adaptersAreOff() ? this.standsOn : undefined;
      if (below) return below.forward(...args);
      return tap(this.#path, rematerialisesBlocks() && this.isBlock ? rematerialise(() => run(...args)) : run(...args));
    };
  }

  abstract forward(...args: never[]): unknown;

  /** Dotted path from the root of the model; empty for the root. */
  get path(): string {
    return this.#path;
  }

  /** Whether it stands in a list of modules, as the layers of a model do. */
  get isBlock(): boolean {
    return /(^|\.)\d+$/.test(this.#path);
  }

  /** The module in whose place this one stands and on which it builds, as an adapter does: that one's children count as this one's own. */
  get standsOn(): Module | undefined {
    return undefined;
  }

  /** Modules and parameters held by the fields, in the order of their declaration. Arrays count their elements. */
  *children(): Generator<[name: string, child: Child]> {
    const below = this.standsOn;
    if (below) yield* below.children();
    for (const [name, value] of Object.entries(this)) {
      if (value === below) continue;
      if (value instanceof Module || value instanceof Parameter) yield [name, value];
      else if (Array.isArray(value))
        for (const [i, item] of value.entries()) if (item instanceof Module || item instanceof Parameter) yield [`${name}.${i}`, item];
    }
  }

  /** This module and all below it, with their paths. */
  *namedModules(prefix = ""): Generator<[path: string, module: Module]> {
    yield [prefix, this];
    for (const [name, child] of this.children())
      if (child instanceof Module) yield* child.namedModules(prefix ? `${prefix}.${name}` : name);
  }

  /** All parameters with their paths; one that several modules share comes once, under its first path. */
  *namedParameters(): Generator<[path: string, parameter: Parameter]> {
    const seen = new Set<Parameter>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, child] of module.children()) {
        if (!(child instanceof Parameter) || seen.has(child)) continue;
        seen.add(child);
        yield [path ? `${path}.${name}` : name, child];
      }
    }
  }

  parameters(): Parameter[] {
    return Array.from(this.namedParameters(), ([, p]) => p);
  }

  trainableParameters(): Parameter[] {
    return this.parameters().filter((p) => !p.frozen);
  }

  /** Makes every parameter below this module a constant. */
  freeze(): this {
    for (const p of this.parameters()) p.frozen = true;
    return this;
  }

  /** Writes paths into modules and parameters. Call it on the root after building or rewriting a model. */
  assignNames(): this {
    for (const [path, module] of this.namedModules()) module.#path = path;
    for (const [path, parameter] of this.namedParameters()) parameter.name = path;
    return this;
  }

  /** The module at a dotted path. */
  module(path: string): Module {
    for (const [name, module] of this.namedModules()) if (name === path) return module;
    const near = nearestNames(
      path,
      Array.from(this.namedModules(), ([name]) => name),
    );
    throw new EspalierError("no-module", `The model has no module "${path}". Nearest: ${near.join(", ")}.`);
  }

  /** Puts another module in the place of the one at `path`. */
  replace(path: string, replacement: Module): void {
    const parts = path.split(".");
    const last = parts.pop()!;
    let holder: unknown = this;
    for (const part of parts) holder = holderOf(holder, part)?.[part];
    const fields = holderOf(holder, last);
    if (!(fields?.[last] instanceof Module)) throw new EspalierError("no-module", `There is no module at "${path}" to replace.`);
    fields[last] = replacement;
  }
}

/** What has the field: the value itself, or a module on which it stands. */
function holderOf(value: unknown, field: string): Record<string, unknown> | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  if (field in value) return value as Record<string, unknown>;
  return value instanceof Module ? holderOf(value.standsOn, field) : undefined;
}

/** float32 values held in memory. */
export const floats = (shape: readonly number[], data: Float32Array): MemoryStorage => ({ kind: "memory", dtype: "float32", shape, data });
