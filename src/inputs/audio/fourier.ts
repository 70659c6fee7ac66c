/** The discrete Fourier transform of real signals of any length, by Cooley and Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series". */
export class FourierTransform {
  readonly size: number;
  /** Real and imaginary parts of the last transform, [size]. */
  readonly re: Float64Array;
  readonly im: Float64Array;
  readonly #cos: Float64Array;
  readonly #sin: Float64Array;
  /** Real and imaginary parts of one butterfly. */
  readonly #butterfly: Float64Array;

  constructor(size: number) {
    this.size = size;
    this.re = new Float64Array(size);
    this.im = new Float64Array(size);
    this.#cos = Float64Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.#sin = Float64Array.from({ length: size }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
    this.#butterfly = new Float64Array(2 * size);
  }

  /** Transforms `signal` [size] into {@link re} and {@link im}. */
  run(signal: Float64Array): void {
    this.#part(signal, 0, 1, 0, this.size);
  }

  /** Every `stride`-th element of the signal, `length` in all, into the results from `to` on. */
  #part(signal: Float64Array, from: number, stride: number, to: number, length: number): void {
    const { re, im } = this;
    if (length === 1) {
      re[to] = signal[from]!;
      im[to] = 0;
      return;
    }
    const factor = smallestFactor(length);
    const inner = length / factor;
    for (let r = 0; r < factor; r++) this.#part(signal, from + r * stride, stride * factor, to + r * inner, inner);
    const [cos, sin, parts] = [this.#cos, this.#sin, this.#butterfly];
    for (let k = 0; k < inner; k++) {
      for (let r = 0; r < factor; r++) {
        const at = to + r * inner + k;
        const turn = r * k * stride;
        parts[2 * r] = re[at]! * cos[turn]! - im[at]! * sin[turn]!;
        parts[2 * r + 1] = re[at]! * sin[turn]! + im[at]! * cos[turn]!;
      }
      for (let j = 0; j < factor; j++) {
        let [x, y] = [0, 0];
        for (let r = 0; r < factor; r++) {
          const turn = (r * j * (this.size / factor)) % this.size;
          x += parts[2 * r]! * cos[turn]! - parts[2 * r + 1]! * sin[turn]!;
          y += parts[2 * r]! * sin[turn]! + parts[2 * r + 1]! * cos[turn]!;
        }
        re[to + j * inner + k] = x;
        im[to + j * inner + k] = y;
      }
    }
  }
}

function smallestFactor(n: number): number {
  for (let factor = 2; factor * factor <= n; factor++) if (n % factor === 0) return factor;
  return n;
}
