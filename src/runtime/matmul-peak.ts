import { trace } from "../graph/index.ts";
import { matmul, slice } from "../ops/index.ts";
import { type Device, hostTensor, type Program } from "./device.ts";

/** The float32 matmul peak of a device through ONNX Runtime: a chain of large square products. The physical limit that speeds are compared with. */
export class MatmulPeak {
  readonly #program: Program;
  readonly #size: number;
  readonly #products: number;
  readonly #operand;

  private constructor(program: Program, size: number, products: number) {
    this.#program = program;
    this.#size = size;
    this.#products = products;
    // Small numbers of both signs, so that no product overflows.
    this.#operand = hostTensor(
      "float32",
      [size, size],
      Float32Array.from({ length: size * size }, (_, i) => Math.sin(i) / size),
    );
  }

  static async create(device: Device, { size = 2048, products = 6 } = {}): Promise<MatmulPeak> {
    const type = { dtype: "float32", shape: [size, size] } as const;
    const traced = trace({ a: type, b: type }, ({ a, b }) => {
      let y = a;
      for (let i = 0; i < products; i++) y = matmul(y, b);
      return { corner: slice(slice(y, 0, 0, 1), 1, 0, 1) };
    });
    return new MatmulPeak(await device.compile(traced), size, products);
  }

  /** Floating-point operations per second now. */
  async measure(): Promise<number> {
    const started = performance.now();
    await this.#program.run({ a: this.#operand, b: this.#operand });
    return (this.#products * 2 * this.#size ** 3 * 1000) / (performance.now() - started);
  }

  dispose(): Promise<void> {
    return this.#program.dispose();
  }
}
