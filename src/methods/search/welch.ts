/**
 * Two-sided p-value of Welch's t-test: how likely means as far apart as these are where both samples have one mean. At least two values each.
 * Where neither sample varies, 0 for different means and 1 for equal ones.
 */
export function welchTest(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [moments(a), moments(b)];
  const error = x.error + y.error;
  if (error === 0) return x.mean === y.mean ? 1 : 0;
  const t = Math.abs(x.mean - y.mean) / Math.sqrt(error);
  const freedom = error ** 2 / (x.error ** 2 / (a.length - 1) + y.error ** 2 / (b.length - 1));
  // With t = √ν·tan φ Student's density is cos^(ν−1) φ, whose integrals need no gamma function.
  const density = (angle: number) => Math.cos(angle) ** (freedom - 1);
  const angle = Math.atan(t / Math.sqrt(freedom));
  return integral(density, angle, Math.PI / 2) / integral(density, 0, Math.PI / 2);
}

/** Mean, and the squared error of the mean. */
function moments(values: readonly number[]): { mean: number; error: number } {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1);
  return { mean, error: variance / values.length };
}

/** By midpoints. */
function integral(f: (x: number) => number, from: number, to: number, parts = 4000): number {
  const width = (to - from) / parts;
  let sum = 0;
  for (let i = 0; i < parts; i++) sum += f(from + (i + 0.5) * width);
  return sum * width;
}
