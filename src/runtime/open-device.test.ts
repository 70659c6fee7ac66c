/** On whatever machine this runs, a device opens and computes, or is refused with what to do about it. */
import { expect, test } from "vitest";
import { EspalierError, trace } from "../graph/index.ts";
import { mul } from "../ops/index.ts";
import { type Device, hostTensor } from "./device.ts";
import { deviceNames, missing, openDevice } from "./open-device.ts";

async function doubled(device: Device): Promise<unknown> {
  const x = hostTensor("float32", [2], Float32Array.of(1, 2));
  const program = await device.compile(trace({ x }, (i) => ({ y: mul(i.x, 2) })));
  const { y } = await program.run({ x });
  await device.dispose();
  return Array.from(y!.data as Float32Array);
}

const advice = {
  cpu: /never/,
  webgpu:
    /WebGPU finds no graphics processor .* [Ii]nstall .* Or choose another device: cpu or cuda\.$|has no WebGPU provider on .* Choose another device/,
  cuda: /CUDA 12 and cuDNN 9 .*ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node --foreground-scripts\. Or choose another device: cpu or webgpu\.$|has no CUDA provider on .* Choose another device/,
};

test.each(deviceNames)("%s opens, or says what is missing", async (name) => {
  const device = await openDevice(name, { threads: 1 }).catch((error: unknown) => error as EspalierError);
  if (device instanceof EspalierError) {
    expect(device.code).toBe("no-device");
    expect(device.message).toMatch(advice[name]);
    expect(device.message).not.toMatch(/\.cc:\d+|\n/);
  } else expect(await doubled(device)).toEqual([2, 4]);
});

test("16 bits on the processor are refused: nothing would be gained", async () => {
  await expect(openDevice("cpu", { compute: "float16" })).rejects.toThrow(/no matrix products in float16: .* Compute in float32/);
  for (const name of ["webgpu", "cuda"] as const)
    await expect(openDevice(name, { compute: "int8" })).rejects.toThrow(/int8 are for the processor/);
  const device = await openDevice("cpu", { compute: "int8" });
  expect(device.compute).toBe("int8");
  await device.dispose();
});

test("the reason is ONNX Runtime's, in a line", () => {
  const cause = new Error(
    "/onnxruntime_src/x/webgpu_context.cc:136 void f(int) a == b was false. Failed to get a WebGPU adapter: No supported adapters\n\n",
  );
  expect(missing("webgpu", cause)).toMatch(
    /^WebGPU finds no graphics processor that it can use \(Failed to get a WebGPU adapter: No supported adapters\)\. Install/,
  );
});
