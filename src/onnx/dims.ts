import type { Dim, Graph, Tensor } from "../graph/index.ts";
import type { AttributeProto, NodeProto } from "./model.ts";

/** What the encoder of a model does for its dims. */
export interface DimContext {
  graph: Graph;
  unique(base: string): string;
  /** The name of an initializer of these numbers. */
  int64(values: readonly number[]): string;
  /** Declares an input of the graph. */
  input(name: string, tensor: Tensor): void;
}

/** Nodes of the outermost graph that compute symbolic dims; every branch may read them. */
export class DimNodes {
  readonly nodes: NodeProto[] = [];
  readonly #context: DimContext;
  readonly #names = new Map<string, string>();

  constructor(context: DimContext) {
    this.#context = context;
  }

  /** An int64 vector of dims; symbols are read off the shapes of the inputs. */
  vector(shape: readonly Dim[]): string {
    const numbers = shape.filter((d): d is number => typeof d === "number");
    if (numbers.length === shape.length) return this.#context.int64(numbers);
    const parts = shape.map((d) => this.#dim(d));
    if (parts.length === 1) return parts[0]!;
    return this.#node("Concat", parts, shape.map(String).join(), { name: "axis", int: 0 });
  }

  #dim(dim: Dim): string {
    if (typeof dim === "number") return this.#context.int64([dim]);
    const terms = [...dim.terms].map(([monomial, k]) => {
      const factors = monomial
        .split("*")
        .filter(Boolean)
        .map((s) => this.#symbol(s));
      if (k !== 1 || factors.length === 0) factors.push(this.#context.int64([k]));
      return factors.reduce((a, b) => this.#node("Mul", [a, b], `${a}*${b}`));
    });
    return terms.reduce((a, b) => this.#node("Add", [a, b], `${a}+${b}`));
  }

  #symbol(name: string): string {
    for (const [inputName, tensor] of this.#context.graph.inputs) {
      const axis = tensor.shape.findIndex((d) => typeof d !== "number" && d.toString() === name);
      if (axis < 0) continue;
      this.#context.input(inputName, tensor);
      const attribute = [
        { name: "start", int: axis },
        { name: "end", int: axis + 1 },
      ];
      return this.#node("Shape", [inputName], `symbol ${name}`, ...attribute);
    }
    throw new Error(`the symbolic dimension "${name}" is the size of no input's axis`);
  }

  #node(opType: string, input: string[], key: string, ...attribute: AttributeProto[]): string {
    const known = this.#names.get(`${opType} ${key}`);
    if (known !== undefined) return known;
    const name = this.#context.unique(`dims/${opType}`);
    this.nodes.push({ opType, domain: "", name, input, output: [name], attribute });
    this.#names.set(`${opType} ${key}`, name);
    return name;
  }
}
